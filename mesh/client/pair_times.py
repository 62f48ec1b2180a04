"""Asks providers, now and then and on the side, which round trips they measured to each other."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Iterable, Sequence

from mesh.errors import PeerError
from mesh.swarm.route import DEFAULT_HOP_SECONDS
from mesh.swarm.told import ToldTimes
from mesh.transport.pairs_service import ask_pairs
from mesh.transport.port import Transport

logger = logging.getLogger(__name__)

MOST_ASKED = 32


class PairTimes:
    """What providers told, asked for anew every `interval` seconds, and first after `delay`: a client that asks for one
    answer and goes need not know."""

    def __init__(self, transport: Transport, tasks: asyncio.TaskGroup, *, delay: float, interval: float) -> None:
        self._transport = transport
        self._tasks = tasks
        self._interval = interval
        self._due = time.monotonic() + delay
        self._asking: asyncio.Task[None] | None = None
        self._told = ToldTimes()

    def refresh(self, peers: Sequence[str], used: Collection[str]) -> None:
        """Ask some of `peers` if it is time; those that are `used` before others."""
        now = time.monotonic()
        if now < self._due or (self._asking is not None and not self._asking.done()):
            return
        self._due = now + self._interval
        chosen = sorted(random.sample(list(peers), len(peers)), key=lambda peer: peer not in used)[:MOST_ASKED]
        self._asking = self._tasks.create_task(self._ask_all(chosen))

    def between(self, peers: Iterable[str]) -> dict[tuple[str, str], float]:
        """Seconds for a hand-over between any two of them, where we have been told anything unusual."""
        return self._told.between(frozenset(peers), DEFAULT_HOP_SECONDS, time.monotonic())

    def close(self) -> None:
        """Ask nobody any more."""
        self._due = float("inf")
        if self._asking is not None:
            self._asking.cancel()

    async def _ask_all(self, peers: Sequence[str]) -> None:
        await asyncio.gather(*(self._ask(peer) for peer in peers))

    async def _ask(self, peer: str) -> None:
        try:
            pairs = await ask_pairs(self._transport, peer)
        except PeerError as error:
            logger.debug("%s does not say how it reaches others: %s", peer, error)
            return
        trips = {
            pair.peer: pair.direct_round_trip if pair.way == "direct" else pair.daemon_round_trip for pair in pairs
        }
        known = {other: seconds for other, seconds in trips.items() if seconds is not None}
        self._told.hear(peer, known, time.monotonic())
