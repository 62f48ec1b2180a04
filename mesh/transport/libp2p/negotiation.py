"""multistream-select 1.0: how two libp2p peers agree on what a connection or a stream speaks.

Each message is a line behind its length (unsigned varint, newline included); see github.com/multiformats.
py-libp2p has this too, but with deadlines of trio's, which need trio's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import Final, Protocol

from mesh.errors import PeerUnreachable, ProtocolViolation

VERSION: Final = "/multistream/1.0.0"
_NOT_AVAILABLE: Final = "na"
_MAX_LINE: Final = 1024  # bytes; its length takes two bytes at most
_MAX_PROPOSALS: Final = 16


class Bytes(Protocol):
    """What is negotiated on: exact reads, and writes that wait for room. Both raise `OSError` when it breaks."""

    async def read(self, n: int) -> bytes:
        """Exactly `n` bytes."""

    async def write(self, data: bytes) -> None:
        """Send `data`."""


class StreamBytes:
    """A reader and a writer as `Bytes`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, n: int) -> bytes:
        try:
            return await self._reader.readexactly(n)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the stream ended") from None

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


async def propose(stream: Bytes, protocol: str) -> None:
    """Ask the peer to speak `protocol`. Raises `PeerUnreachable` when it does not, `ProtocolViolation`, `OSError`."""
    await stream.write(_line(VERSION) + _line(protocol))
    greeting = await _read_line(stream)
    if greeting != VERSION:
        raise ProtocolViolation("the peer does not speak multistream-select")
    answer = await _read_line(stream)
    if answer == _NOT_AVAILABLE:
        raise PeerUnreachable(f"the peer does not serve {protocol}")
    if answer != protocol:
        raise ProtocolViolation("the peer agreed to something that nobody proposed")


async def respond(stream: Bytes, served: Container[str]) -> str:
    """Let the peer choose among `served`; what it chose. Raises `ProtocolViolation`, `OSError`."""
    if await _read_line(stream) != VERSION:
        raise ProtocolViolation("the peer does not speak multistream-select")
    await stream.write(_line(VERSION))
    for _ in range(_MAX_PROPOSALS):
        wanted = await _read_line(stream)
        if wanted in served:
            await stream.write(_line(wanted))
            return wanted
        await stream.write(_line(_NOT_AVAILABLE))
    raise ProtocolViolation("the peer proposed too many protocols")


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    if len(data) > _MAX_LINE:
        raise PeerUnreachable("the name of the protocol is too long")
    size = bytes((len(data),)) if len(data) < 0x80 else bytes((len(data) & 0x7F | 0x80, len(data) >> 7))
    return size + data


async def _read_line(stream: Bytes) -> str:
    size = (await stream.read(1))[0]
    if size & 0x80:
        high = (await stream.read(1))[0]
        size = size & 0x7F | high << 7
    if not 0 < size <= _MAX_LINE:
        raise ProtocolViolation(f"a line of {size} bytes in multistream-select")
    line = await stream.read(size)
    if not line.endswith(b"\n"):
        raise ProtocolViolation("a line without an end in multistream-select")
    try:
        return line[:-1].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("a line in multistream-select that is not text") from None
