"""Length-prefixed messages over a socket; nothing is allocated for one that is over its limit."""

from __future__ import annotations

import socket
import struct
from time import monotonic

HEADER = struct.Struct(">I")


class FrameError(Exception):
    """The other side sent more than it may, or ended in the middle of a message."""


def send(channel: socket.socket, payload: bytes, deadline: float | None = None) -> None:
    """Send one message. Raises `OSError`; `TimeoutError` at the deadline (seconds of `monotonic`)."""
    for part in (HEADER.pack(len(payload)), payload):
        channel.settimeout(_left(deadline))
        channel.sendall(part)


def receive(channel: socket.socket, limit: int, deadline: float | None = None) -> bytearray | None:
    """One message of at most `limit` bytes; None at the end of the stream. Raises `FrameError` and as `send`."""
    header = _exactly(channel, HEADER.size, deadline)
    if header is None:
        return None
    (length,) = HEADER.unpack(header)
    if length > limit:
        raise FrameError(f"a message of {length} bytes is over the limit of {limit}")
    payload = _exactly(channel, length, deadline)
    if payload is None:
        raise FrameError("the stream ended inside a message")
    return payload


def _exactly(channel: socket.socket, count: int, deadline: float | None) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        channel.settimeout(_left(deadline))
        got = channel.recv_into(view)
        if not got:
            if len(view) == count:
                return None
            raise FrameError("the stream ended inside a message")
        view = view[got:]
    return data


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
