"""Measures how many bytes per second go from this node to another: `/mesh/speed/1`, both ends.

The asker sends frames of growing size and the other end answers each with an empty one; what a round takes longer than
that of an empty frame is what its bytes took. The largest rate counts: TCP begins slowly on a long line.
"""

from __future__ import annotations

import asyncio
import logging
import math
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
        try:
            while True:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    frame = await channel.receive()
                    if frame is None or rates.of(channel.peer).wait(clock(), 1024.0 + len(frame.payload)):
                        return
                    await channel.send(Frame(b"", b""))
        except TimeoutError:
            return

    return answer


async def link_speed(transport: Transport, peer: PeerId, *, timeout: float = MEASURE_SECONDS) -> float:
    """Bytes per second to a peer; infinite where it is too fast to tell. Raises `PeerError`s."""
    try:
        async with asyncio.timeout(timeout):
            channel = await transport.open(peer, SPEED_PROTOCOL, timeout=timeout)
            try:
                empty = min([await _round(channel, 0) for _ in range(2)])
                best = 0.0
                for size in PROBES:
                    took = await _round(channel, size) - empty
                    best = max(best, size / took if took > SHORT_SECONDS else math.inf)
                    if best == math.inf or took > LONG_SECONDS:
                        break
                return best
            finally:
                await channel.aclose()
    except TimeoutError:
        raise PeerTimeout(f"{peer} took longer than {timeout:g} s", peer=peer) from None


async def best_link_speed(transport: Transport, peers: Iterable[PeerId]) -> float:
    """The best of these links, one after the other: what we ourselves can send. 0 where none could be measured."""
    best = 0.0
    for peer in peers:
        try:
            best = max(best, await link_speed(transport, peer))
        except PeerError as error:
            log.debug("the speed of the link to %s could not be measured: %s", peer, error)
        if best == math.inf:
            break
    return best


async def _round(channel: Channel, size: int) -> float:
    clock = asyncio.get_running_loop().time
    began = clock()
    await channel.send(Frame(b"", bytes(size)))
    if await channel.receive() is None:
        raise PeerFailed("it does not answer any more", peer=channel.peer)
    return clock() - began
