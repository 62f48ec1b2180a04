"""Measures how many bytes per second go from this node to another: `/mesh/speed/1`, both ends.

The asker sends frames of growing size and the other end answers each with an empty one; what a round takes longer than
that of an empty frame is what its bytes took. The largest rate of a link counts: TCP begins slowly on a long line.
"""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Final

from mesh.errors import PeerError, PeerFailed, PeerTimeout
from mesh.transport.port import Channel, Handler, PeerId, Transport
from mesh.transport.quotas import Rates
from mesh.wire.frame import Frame

log = logging.getLogger(__name__)

SPEED_PROTOCOL: Final = "/mesh/speed/1"
MAX_PROBE: Final = 256 * 1024
"""Bytes of the largest frame."""
PROBES: Final = (16 * 1024, 64 * 1024, MAX_PROBE, MAX_PROBE, MAX_PROBE)
BYTES_PER_SECOND: Final = 64 * 1024
"""What one peer may send us for this in the long run …"""
BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""… and at once."""
FRAME_COST: Final = 1024.0
"""Bytes that a frame counts beside its own."""
LONG_SECONDS: Final = 1.0
"""A frame that takes longer says enough."""
SHORT_SECONDS: Final = 0.002
"""What takes less cannot be told from nothing."""
MEASURE_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 15.0
"""Without a frame, after which we stop listening."""


def speed_handler(*, clock: Callable[[], float] = time.monotonic) -> Handler:
    """A handler that answers each frame with an empty one, as long as a peer sends no more than it may."""
    rates = Rates(BYTES_PER_SECOND, BYTES_AT_ONCE)

    async def answer(channel: Channel) -> None:
        rate = rates.of(channel.peer)
        try:
            while not rate.wait(clock(), 0.0):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    frame = await channel.receive()
                    if frame is None:
                        return
                    rate.wait(clock(), FRAME_COST + len(frame.payload))
                    await channel.send(Frame(b"", b""))
        except TimeoutError:
            return

    return answer


async def link_speed(transport: Transport, peer: PeerId, *, timeout: float = MEASURE_SECONDS) -> float:
    """Bytes per second to a peer; infinite where it is too fast to tell. Raises `PeerError`s.

    Where the peer or our patience ends before the last frame, what was seen until then counts; where nothing was, that
    the first frame was not through in time.
    """
    clock = asyncio.get_running_loop().time
    best, sending, began = 0.0, 0, clock()
    try:
        async with asyncio.timeout(timeout):
            channel = await transport.open(peer, SPEED_PROTOCOL, timeout=timeout)
            try:
                empty = min([await _round(channel, 0) for _ in range(2)])
                for size in PROBES:
                    sending, began = size, clock()
                    took = await _round(channel, size) - empty
                    if took > SHORT_SECONDS:
                        best = max(best, size / took)
                    elif size == MAX_PROBE:
                        return math.inf  # a smaller one may fit into what a line lets through at once
                    if took > LONG_SECONDS:
                        break
            finally:
                await channel.aclose()
    except TimeoutError:
        if best or sending:
            return best or sending / (clock() - began)
        raise PeerTimeout(f"{peer} took longer than {timeout:g} s", peer=peer) from None
    except PeerError:
        if best:
            return best
        raise
    return best


async def usual_link_speed(transport: Transport, peers: Iterable[PeerId]) -> float:
    """The middle one of these links (of two the better), one after the other; 0 where none could be measured.

    One slow neighbour says little of our own line, and neither does one next door.
    """
    found = []
    for peer in peers:
        try:
            found.append(await link_speed(transport, peer))
        except PeerError as error:
            log.debug("the speed of the link to %s could not be measured: %s", peer, error)
    return statistics.median_high(found) if found else 0.0


async def _round(channel: Channel, size: int) -> float:
    clock = asyncio.get_running_loop().time
    began = clock()
    await channel.send(Frame(b"", bytes(size)))
    if await channel.receive() is None:
        raise PeerFailed("it does not answer any more", peer=channel.peer)
    return clock() - began
