"""The frames of yamux, as in github.com/hashicorp/yamux/blob/master/spec.md (pure).

version u8 = 0 | type u8 | flags u16 | stream id u32 | length u32      (big-endian), then, for data, the bytes
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from mesh.errors import ProtocolViolation

_HEADER: Final = struct.Struct("!BBHII")
HEADER_SIZE: Final = _HEADER.size
INITIAL_WINDOW: Final = 256 * 1024
"""Bytes that either side may send on a new stream before it hears of more room."""
MAX_WINDOW: Final = (1 << 32) - 1


class Kind(IntEnum):
    """The type of a frame; what its length means."""

    DATA = 0
    """Bytes that follow."""
    WINDOW = 1
    """Bytes more that the receiver may send."""
    PING = 2
    """An opaque value that the answer repeats."""
    GO_AWAY = 3
    """Why the session ends."""


class Flag(IntFlag):
    """What a frame says of its stream beside."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class Header(NamedTuple):
    """A frame's header."""

    kind: Kind
    flags: Flag
    stream: int
    length: int


def encode(kind: Kind, flags: Flag, stream: int, length: int) -> bytes:
    """The twelve bytes of a header."""
    return _HEADER.pack(0, kind, flags, stream, length)


def decode(data: bytes | bytearray | memoryview) -> Header:
    """Read a header. Raises `ProtocolViolation` for anything that the specification does not know."""
    version, kind, flags, stream, length = _HEADER.unpack(data)
    if version != 0 or kind > Kind.GO_AWAY or flags > 15:
        raise ProtocolViolation(f"a yamux frame of version {version}, type {kind}, flags {flags}")
    if (kind <= Kind.WINDOW) != (stream != 0):
        raise ProtocolViolation(f"a yamux frame of type {kind} on stream {stream}")
    return Header(Kind(kind), Flag(flags), stream, length)
