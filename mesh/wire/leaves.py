"""Messages of `/mesh/leaves/1`: documents that a gateway publishes about an epoch, fetched in bounded parts (pure).

The asker sends `fetch`; the gateway answers with `part`s, each a piece of the document as payload, until `offset` and
the payload reach `total`, or with one `part` that names an error. A channel may carry one request after another.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from mesh.errors import ProtocolViolation
from mesh.wire.codec import Codec, ShortText, WireMessage

LEAVES_PROTOCOL: Final = "/mesh/leaves/1"
PART_BYTES: Final = 1 << 20
MAX_DOCUMENT: Final = 64 << 20
HEADER_LIMIT: Final = 4096

Document = Literal["leaves", "reports"]
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Offset = Annotated[int, Meta(ge=0, le=MAX_DOCUMENT)]


class FetchDocument(WireMessage, frozen=True, tag="fetch"):
    """Ask for the leaves of a model and epoch, or for the service-level reports of an epoch (`model_id` 0)."""

    what: Document
    gateway: Annotated[str, Meta(max_length=64)]
    model_id: Number
    epoch: Number


class DocumentPart(WireMessage, frozen=True, tag="part"):
    """The bytes from `offset` on, as payload, of `total`; or why there are none."""

    offset: Offset
    total: Offset
    error: ShortText | None


_codec: Final = Codec[FetchDocument | DocumentPart](
    FetchDocument | DocumentPart, header_limit=HEADER_LIMIT, payloads={DocumentPart: PART_BYTES}
)
encode = _codec.encode
decode = _codec.decode


class Assembly:
    """Puts a document together from its parts, within `limit` bytes."""

    def __init__(self, limit: int = MAX_DOCUMENT) -> None:
        self._limit = limit
        self._total: int | None = None
        self._body = bytearray()

    def add(self, part: DocumentPart, payload: bytes | bytearray | memoryview) -> bool:
        """Take the next part; True once the document is whole. Raises `ProtocolViolation`."""
        if part.total > self._limit:
            raise ProtocolViolation(f"a document of {part.total} bytes is over the limit of {self._limit}")
        if self._total is None:
            self._total = part.total
        if part.total != self._total or part.offset != len(self._body):
            raise ProtocolViolation("the parts of a document do not fit together")
        if not payload and part.total:
            raise ProtocolViolation("a part of a document is empty")
        if len(self._body) + len(payload) > part.total:
            raise ProtocolViolation("a document is longer than its first part says")
        self._body += payload
        return len(self._body) == part.total

    @property
    def body(self) -> bytes:
        return bytes(self._body)
