"""Reads the messages of the circuit relay protocol from a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mesh.errors import ProtocolViolation
from mesh.wire.circuit import MAX_MESSAGE


async def read_message(exactly: Callable[[int], Awaitable[bytes]]) -> bytes:
    """One protobuf message behind its length, from whatever reads exactly so many bytes.

    Raises `ProtocolViolation` where it is too long, and whatever `exactly` raises.
    """
    size = 0
    for shift in (0, 7):
        byte = (await exactly(1))[0]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        size = MAX_MESSAGE + 1
    if size > MAX_MESSAGE:
        raise ProtocolViolation("a message that is too long")
    return await exactly(size)
