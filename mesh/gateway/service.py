"""What all requests of one gateway share: the backend, limits, metrics and the memory of recent requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mesh.client.types import Backend, ModelInfo
from mesh.errors import Refused, UnknownModel
from mesh.gateway.config import GatewayConfig
from mesh.gateway.metrics import Metrics
from mesh.gateway.reports import RequestLog

_MAX_QUOTED_NAME = 100


class Gateway:
    """The shared state of one app."""

    def __init__(self, backend: Backend, config: GatewayConfig) -> None:
        self.backend = backend
        self.config = config
        self.metrics = Metrics()
        self.requests = RequestLog(config.remembered_requests)
        self.started = int(time.time())
        self.running = 0
        """Generation requests being answered now."""

    async def models(self) -> Sequence[ModelInfo]:
        """The models that the swarm serves now. Raises `MeshError`; `TimeoutError` after `lookup_timeout`."""
        async with asyncio.timeout(self.config.lookup_timeout):
            return await self.backend.models()

    async def model(self, name: str) -> ModelInfo:
        """The model of this name, a complete one where there are several. Raises `UnknownModel`."""
        named = [info for info in await self.models() if info.name == name]
        if not named:
            shown = name if len(name) <= _MAX_QUOTED_NAME else name[:_MAX_QUOTED_NAME] + "…"
            raise UnknownModel(f"The model {shown!r} is not served by the swarm.", param="model")
        return next((info for info in named if info.complete), named[0])

    @contextmanager
    def slot(self) -> Iterator[None]:
        """One of the `max_concurrent` places. Raises `Refused` at once when all are taken."""
        if self.running >= self.config.max_concurrent:
            raise Refused(f"The gateway already answers {self.running} requests.", retry_after=1.0)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
