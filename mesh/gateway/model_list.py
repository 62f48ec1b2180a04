"""What the gateway knows of the swarm's models: looked up for all requests together, and not waited for for long."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence

from mesh.client.types import ModelInfo
from mesh.errors import MeshError

log = logging.getLogger(__name__)


class ModelList:
    """One look at the swarm at a time, for all that ask. A look can take seconds: strangers announce what they like
    and peers need not answer. So the last one is told while a new one is under way.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Sequence[ModelInfo]]],
        *,
        fresh: float,
        stale: float,
        patience: float,
        timeout: float,
    ) -> None:
        """Seconds: so long a look is good, so long it is told where a new one takes longer than `patience`, and so long
        a look may take (`timeout`)."""
        self._ask = ask
        self._fresh = fresh
        self._stale = stale
        self._patience = patience
        self._timeout = timeout
        self._at = -math.inf
        self._known: Sequence[ModelInfo] = ()
        self._looking: asyncio.Task[Sequence[ModelInfo]] | None = None

    async def get(self) -> Sequence[ModelInfo]:
        """The models, by a look that is at most `stale` seconds old. Raises `MeshError` or `TimeoutError`."""
        if self._age < self._fresh:
            return self._known
        look = self._look()
        await asyncio.wait({look}, timeout=self._patience)
        if self._age < self._stale and (not look.done() or _failed(look)):
            return self._known
        return await asyncio.shield(look)

    async def at_hand(self) -> Sequence[ModelInfo]:
        """The models as far as they are known within `patience`; none where nothing is."""
        if self._age >= self._fresh:
            await asyncio.wait({self._look()}, timeout=self._patience)
        return self._known if self._age < self._stale else ()

    async def now(self) -> Sequence[ModelInfo]:
        """The models by a look that is at most `fresh` seconds old. Raises `MeshError` or `TimeoutError`."""
        return self._known if self._age < self._fresh else await asyncio.shield(self._look())

    @property
    def _age(self) -> float:
        return time.monotonic() - self._at

    def _look(self) -> asyncio.Task[Sequence[ModelInfo]]:
        if self._looking is None:
            self._looking = asyncio.create_task(self._renew(), name="looking at the models")
            self._looking.add_done_callback(self._looked)
        return self._looking

    async def _renew(self) -> Sequence[ModelInfo]:
        async with asyncio.timeout(self._timeout):
            known = await self._ask()
        self._at, self._known = time.monotonic(), known
        return known

    def _looked(self, look: asyncio.Task[Sequence[ModelInfo]]) -> None:
        self._looking = None
        if look.cancelled() or (error := look.exception()) is None:
            return
        if _failed(look):
            log.info("the models could not be looked up: %r", error)
        else:  # who waits for it says so too, but perhaps nobody does
            log.error("looking at the models failed", exc_info=error)


def _failed(look: asyncio.Task[Sequence[ModelInfo]]) -> bool:
    """Whether the swarm is why there is no answer, which an older one may stand in for."""
    return look.cancelled() or isinstance(look.exception(), MeshError | TimeoutError)
