"""Decoders of frames: the prefix, and streams of frames as each transport reads them."""

from __future__ import annotations

import asyncio
import struct
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any

from mesh.errors import FrameTooLarge, FrameTruncated, PeerUnreachable, ProtocolViolation
from mesh.transport.direct.assembly import FrameAssembly
from mesh.transport.streams import FrameChannel, StreamSettings
from mesh.wire.frame import GOODBYE, PREFIX, Frame, FrameLimits, decode_prefix, encode_prefix
from tests.fuzz.decoder import Decoder

LIMITS = FrameLimits(header=4096, payload=65_536)
PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def _stream(*frames: Frame) -> bytes:
    return b"".join(encode_prefix(frame, LIMITS) + frame.header + frame.payload for frame in frames)


def _streams() -> list[bytes]:
    small, large = Frame(b"\x81\xa1t\xa1x", b"payload"), Frame(b"h" * 300, bytes(range(256)) * 200)
    return [
        _stream(small) + GOODBYE,
        _stream(large, small, small),
        _stream(Frame(b"", b""), large) + GOODBYE,
        _stream(Frame(b"", b""), Frame(b"x" * 4096, b"")),
    ]


Parsed = tuple[tuple[tuple[bytes, bytes], ...], str]
"""The frames in a stream, and what comes after them: goodbye, a cut, an error."""


def _reference(data: bytes) -> Parsed:
    """A stream of frames as the protocol describes them, written again for comparison."""
    found: list[tuple[bytes, bytes]] = []
    while True:
        if not data:
            return tuple(found), "end"
        if len(data) < 12:
            return tuple(found), "cut"
        if data[:12] == b"IM\x01\x01" + bytes(8):
            return tuple(found), "goodbye"
        header, payload = struct.unpack(">II", data[4:12])
        if data[:4] != b"IM\x01\x00" or header > LIMITS.header or payload > LIMITS.payload:
            return tuple(found), "error"
        if len(data) < 12 + header + payload:
            return tuple(found), "cut"
        found.append((data[12 : 12 + header], data[12 + header : 12 + header + payload]))
        data = data[12 + header + payload :]


def _assembled(data: bytes) -> Parsed:
    """The same through `FrameAssembly`, in pieces whose sizes follow from the data."""
    rng = Random(len(data) * 31 + sum(data[:64]))
    assembly = FrameAssembly()
    found: list[tuple[bytes, bytes]] = []
    rest = memoryview(data)
    try:
        while True:
            while (frame := assembly.next(LIMITS)) is not None:
                found.append((bytes(frame.header), bytes(frame.payload)))
            if assembly.ended:
                return tuple(found), "goodbye"
            if not rest:
                return tuple(found), "cut" if assembly.begun else "end"
            buffer = assembly.buffer()
            count = min(len(rest), len(buffer), rng.choice((1, 3, 12, 100, 5000, 70_000)))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            assembly.filled(count)
    except ProtocolViolation:
        return tuple(found), "error"


class _Nowhere(asyncio.Transport):
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        pass


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def begin() -> None:
    """Make the loop on which channels are read."""
    _loop()


def close() -> None:
    """Close the loop on which channels are read."""
    if _loop.cache_info().currsize:
        _loop().close()
        _loop.cache_clear()


def _received(data: bytes) -> Parsed:
    """The same through the channel of the daemon's streams."""
    return _loop().run_until_complete(_receive(data))


async def _receive(data: bytes) -> Parsed:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    writer: Any = SimpleNamespace(transport=_Nowhere())
    channel = FrameChannel(PEER, reader, writer, StreamSettings(limits=LIMITS))
    found: list[tuple[bytes, bytes]] = []
    try:
        while (frame := await channel.receive()) is not None:
            found.append((frame.header, bytes(frame.payload)))
    except FrameTruncated:
        return tuple(found), "cut"
    except ProtocolViolation:
        return tuple(found), "error"
    except PeerUnreachable:
        return tuple(found), "end"
    return tuple(found), "goodbye"


def _same_as_reference(sample: bytes, data: bytes, result: Parsed) -> str | None:
    expected = _reference(data)
    return None if result == expected else f"{result[1]} after {len(result[0])} frames, not {expected[1]}"


def _prefix_bounds(sample: bytes, data: bytes, result: tuple[int, int]) -> str | None:
    again = PREFIX.pack(b"IM", 1, 0, *result)
    return None if result[0] <= LIMITS.header and result[1] <= LIMITS.payload and again == _twelve(data) else "bounds"


def _twelve(data: bytes) -> bytes:
    return data[:12].ljust(12, b"\0")


def decoders() -> list[Decoder]:
    """All of this module."""
    return [
        Decoder(
            "frame prefix",
            lambda: [stream[:12] for stream in _streams()],
            lambda data: decode_prefix(_twelve(data), LIMITS),
            (ProtocolViolation, FrameTooLarge),
            _prefix_bounds,
            ("mesh.wire.frame:decode_prefix",),
        ),
        Decoder(
            "frames over TLS",
            _streams,
            _assembled,
            (),
            _same_as_reference,
            ("mesh.transport.direct.assembly:FrameAssembly.next",),
        ),
        Decoder(
            "frames over the daemon",
            _streams,
            _received,
            (),
            _same_as_reference,
            ("mesh.transport.streams:FrameChannel._receive_rest",),
        ),
    ]
