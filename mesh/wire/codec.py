"""How a family of messages goes on the wire: a msgpack map of kind and fields, strictly typed (pure).

A message is a `WireMessage` whose fields say their bounds; what does not keep to them is refused while it is read,
lengths before anything is allocated. Nothing is converted, but that a float may come as an integer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from mesh.errors import ProtocolViolation
from mesh.wire.frame import Frame
from shards.shown import shown

M = TypeVar("M")

ANY_SIZE: Final = 1 << 62
"""A payload as large as frames may have."""
PEER_ID_CHARS: Final = 80

PeerText = Annotated[str, Meta(max_length=PEER_ID_CHARS)]
Count53 = Annotated[int, Meta(ge=0, le=1 << 53)]
Code = Annotated[str, Meta(max_length=64)]
ShortText = Annotated[str, Meta(max_length=200)]
Wait = Annotated[int, Meta(ge=0, le=3_600_000)]
"""Milliseconds."""


class WireMessage(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """A message; its tag is its kind on the wire."""

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class Codec(Generic[M]):
    """One family of messages. `payloads` says which of them may carry one, and of how many bytes at most."""

    def __init__(self, family: Any, *, header_limit: int, payloads: Mapping[type[Any], int] | None = None) -> None:
        """`family` is the message's type, or the union of several."""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(family)
        self._header_limit = header_limit
        self._payloads = payloads or {}

    def encode(self, message: M, payload: bytes | bytearray | memoryview = b"") -> Frame:
        """The frame that carries `message` and `payload`."""
        return Frame(self._encoder.encode(message), payload)

    def decode(self, frame: Frame) -> M:
        """The message in a frame's header. Raises `ProtocolViolation` on anything that its type does not allow."""
        if len(frame.header) > self._header_limit:
            raise ProtocolViolation(f"message of {len(frame.header)} bytes is over the limit of {self._header_limit}")
        message: M = read(self._decoder, frame.header)
        if len(frame.payload) > self._payloads.get(type(message), 0):
            raise ProtocolViolation(f"{shown(message)} has a payload of {len(frame.payload)} bytes")
        return message


def read(decoder: Any, data: bytes | bytearray | memoryview) -> Any:
    """What `decoder` makes of bytes that came from a stranger. Raises `ProtocolViolation`."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"a message does not read: {shown(str(error))}") from error
