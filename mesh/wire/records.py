"""Messages of `/mesh/records/1`: hand out the signed records that you know, to who has no DHT of its own (pure).

The asker sends `ask`; the answer is `records`, with the records as payload, or `busy`. A channel may carry one question
after another. A record needs no trust in who hands it out: its provider signed it.

    payload = for each record: peer id (52 characters) | size u16, big-endian | the signed record
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta

from mesh.errors import ProtocolViolation
from mesh.wire.codec import Codec, PeerText, ShortText, WireMessage

RECORDS_PROTOCOL: Final = "/mesh/records/1"
MAX_RECORDS: Final = 1024
MAX_RECORD_BYTES: Final = 8 * 1024
MAX_ANSWER: Final = 1 << 20
"""Bytes of records in one answer."""
HEADER_LIMIT: Final = 4096
_PEER: Final = 52

MAX_PEERS: Final = 64
"""Peers of which one question may ask."""

What = Literal["models", "providers", "peers"]


class SignedRecord(NamedTuple):
    """A record as its provider signed it, which is still to be checked."""

    peer: str
    data: bytes


class AskRecords(WireMessage, frozen=True, tag="ask"):
    """Ask for the index of models, for the providers of one model, or for what given peers say of themselves."""

    what: What
    name: ShortText
    """Of the model; for the index: the entries of this name only, or empty for all; else empty."""
    digest: Annotated[str, Meta(max_length=64)]
    """Of the model (hex), or empty."""
    peers: Annotated[tuple[PeerText, ...], Meta(max_length=MAX_PEERS)] = ()
    """The peers asked for; else empty."""


class Records(WireMessage, frozen=True, tag="records"):
    """Records are the payload: all that are known, or as many as fit, chosen at random."""

    count: Annotated[int, Meta(ge=0, le=MAX_RECORDS)]


class Busy(WireMessage, frozen=True, tag="busy"):
    """Ask again after `seconds`, or ask somebody else."""

    seconds: Annotated[float, Meta(ge=0, le=3600)]


_codec: Final = Codec[AskRecords | Records | Busy](
    AskRecords | Records | Busy, header_limit=HEADER_LIMIT, payloads={Records: MAX_ANSWER}
)
encode = _codec.encode
decode = _codec.decode


def pack_records(records: Iterable[SignedRecord]) -> tuple[int, bytes]:
    """The payload of as many records as one answer may have, from the first on, and their number."""
    parts: list[bytes] = []
    size = count = 0
    for peer, data in records:
        row = b"".join((peer.encode("ascii"), len(data).to_bytes(2, "big"), data))
        if count == MAX_RECORDS or size + len(row) > MAX_ANSWER:
            break
        parts.append(row)
        size += len(row)
        count += 1
    return count, b"".join(parts)


def unpack_records(count: int, payload: bytes | bytearray | memoryview) -> Sequence[SignedRecord]:
    """The records in a payload, unchecked. Raises `ProtocolViolation` unless it is exactly `count` of them."""
    data = bytes(payload)
    found: list[SignedRecord] = []
    at = 0
    for _ in range(count):
        head = at + _PEER + 2
        if head > len(data):
            raise ProtocolViolation("an answer with fewer records than it says")
        size = int.from_bytes(data[head - 2 : head], "big")
        if not 0 < size <= MAX_RECORD_BYTES or head + size > len(data):
            raise ProtocolViolation(f"an answer with a record of {size} bytes")
        try:
            peer = data[at : head - 2].decode("ascii")
        except UnicodeDecodeError:
            raise ProtocolViolation("an answer with a peer id that is none") from None
        found.append(SignedRecord(peer, data[head : head + size]))
        at = head + size
    if at != len(data):
        raise ProtocolViolation("an answer with more than its records")
    return found
