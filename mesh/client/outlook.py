"""What the client knows of the providers of each model: looks at the directory, kept, and renewed on the side."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mesh.client.catalog import Offer
from mesh.errors import PeerError

logger = logging.getLogger(__name__)

LOOKS_AT_ONCE = 8
"""Models that are looked at for a list: strangers may make up hundreds, and each look asks many peers."""


@dataclass(frozen=True, slots=True)
class LookConfig:
    """How old may be what the directory has said (seconds)."""

    renewed_after: float = 2.0
    """How long a look is used without looking again …"""
    stale_after: float = 12.0
    """… how long while a new one is under way …"""
    wait: float = 1.0
    """… how long a new one is waited for then (with peers cut off the DHT takes seconds for it) …"""
    worthless_after: float = 60.0
    """… and when the old one is worth nothing any more."""


class Outlook:
    """The last look at each model, by name. `look` asks the directory; it raises `PeerError`s."""

    def __init__(
        self, config: LookConfig, tasks: asyncio.TaskGroup, ask: Callable[[str], Awaitable[list[Offer]]]
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._ask = ask
        self._seen: dict[str, tuple[float, list[Offer]]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._keeping: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._closed = False

    def close(self) -> None:
        """End what is under way; from now on nothing is renewed."""
        self._closed = True
        for task in (*self._looking.values(), *self._keeping):
            task.cancel()

    async def offers(self, name: str, *, fresh: bool = False) -> list[Offer]:
        """What the directory says, or said not long ago; `fresh`: what it says now. Raises `PeerError`s."""
        config = self._config
        seen = self._seen.get(name)
        if fresh or seen is None or not seen[1] or self._age(name) > config.worthless_after:
            return await self.look(name)
        age = self._age(name)
        if age > config.renewed_after and not self._closed:
            renewing = self._renew(name)
            if age > config.stale_after:
                await asyncio.wait({renewing}, timeout=config.wait)
        return self._seen.get(name, seen)[1]

    async def listed(self, name: str) -> list[Offer]:
        """As `offers`, for a list of all that is announced: that there was nothing worth an offer is kept too, and few
        looks are under way at a time. Raises `PeerError`s."""
        config = self._config
        seen, age = self._seen.get(name), self._age(name)
        if seen is None or age > config.worthless_after:
            async with self._turns:
                return await self.look(name)
        due = age > (config.renewed_after if seen[1] else config.stale_after)
        if due and not self._closed and len(self._looking) < LOOKS_AT_ONCE:
            self._renew(name)
        return seen[1]

    async def look(self, name: str) -> list[Offer]:
        """What the directory says now. Raises `PeerError`s."""
        began = time.monotonic()
        found = await self._ask(name)
        self._seen[name] = (began, found)
        return found

    @asynccontextmanager
    async def kept(self, name: str) -> AsyncIterator[None]:
        """While an answer takes its time, look now and then: when a hop is lost, another way must be known already."""

        async def keep() -> None:
            pause = self._config.stale_after / 2
            while True:
                await asyncio.sleep(pause)
                if self._age(name) > pause:
                    self._renew(name)

        keeping = self._tasks.create_task(keep())
        self._keeping.add(keeping)
        try:
            yield
        finally:
            keeping.cancel()
            self._keeping.discard(keeping)

    def forget(self) -> None:
        """As if nothing had been seen yet."""
        self._seen.clear()

    def _age(self, name: str) -> float:
        seen = self._seen.get(name)
        return math.inf if seen is None else time.monotonic() - seen[0]

    def _renew(self, name: str) -> asyncio.Task[None]:
        if name not in self._looking:
            self._looking[name] = self._tasks.create_task(self._look_aside(name))
        return self._looking[name]

    async def _look_aside(self, name: str) -> None:
        try:
            await self.look(name)
        except PeerError as error:
            logger.info("the directory did not answer: %s", error)
        finally:
            self._looking.pop(name, None)
