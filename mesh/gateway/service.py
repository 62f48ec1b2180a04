"""What all requests of one gateway share: the backend, limits, metrics and the memory of recent requests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mesh.client.announced import AnnouncedNames
from mesh.client.text_threads import TextThreads
from mesh.client.types import Backend, ModelInfo
from mesh.errors import DaemonDown, NoRoute, PeerTimeout, PeerUnreachable, Refused, UnknownModel
from mesh.gateway.bill import AccountBill, Bill, NoBill
from mesh.gateway.billing import Billing
from mesh.gateway.bodies import BodyMemory
from mesh.gateway.callers import Caller
from mesh.gateway.config import GatewayConfig
from mesh.gateway.job import Job
from mesh.gateway.keys import KeyMeters
from mesh.gateway.metrics import Metrics
from mesh.gateway.model_list import ModelList
from mesh.gateway.reports import RequestLog
from mesh.gateway.responses_store import ResponseStore
from mesh.gateway.resuming import Resumptions
from mesh.payment.accounts.limits import Places

_MAX_QUOTED_NAME = 100
SWARM_RETRY_SECONDS = 5.0
"""When to try again where no node of the swarm answers."""


class Gateway:
    """The shared state of one app."""

    def __init__(self, backend: Backend, config: GatewayConfig, billing: Billing | None = None) -> None:
        self.backend = backend
        self.config = config
        self.billing = billing
        share = 0.0 if billing is None else billing.config.reservable_share
        self.places = Places(config.max_concurrent, int(config.max_concurrent * share))
        if billing is not None:
            billing.places = self.places
        self.text_threads = TextThreads()
        self.resumptions = None if billing is None else Resumptions(billing)
        self.metrics = Metrics()
        self.requests = RequestLog(config.remembered_requests)
        self.body_memory = BodyMemory()
        self.keys = KeyMeters(config.key_limits)
        self.started = int(time.time())
        self._names = AnnouncedNames()
        self.responses = ResponseStore()
        self._models = ModelList(
            self._look,
            fresh=config.models_seconds,
            stale=config.models_stale_seconds,
            patience=config.models_patience,
            timeout=config.lookup_timeout,
        )

    async def _look(self) -> Sequence[ModelInfo]:
        try:
            return await self.backend.models()
        except (PeerTimeout, PeerUnreachable) as error:
            if isinstance(error, DaemonDown):
                raise
            raise NoRoute(f"the swarm cannot be asked: {error}", retry_after=SWARM_RETRY_SECONDS) from error

    @property
    def running(self) -> int:
        """Generation requests being answered now."""
        return sum(self.places.running.values())

    async def models(self) -> Sequence[ModelInfo]:
        """The models that the swarm serves. Raises `MeshError`; `TimeoutError` after `lookup_timeout`."""
        return self._noted(await self._models.get())

    def _noted(self, models: Sequence[ModelInfo]) -> Sequence[ModelInfo]:
        for info in models:
            self._names.note(info.name)
        return models

    async def models_at_hand(self) -> Sequence[ModelInfo]:
        """The same at once, as far as they are known: for those that ask how we are."""
        return await self._models.at_hand()

    async def model(self, name: str) -> ModelInfo:
        """The model of this name, a complete one where there are several.

        Raises `UnknownModel`; `NoRoute` where it was announced lately (`AnnouncedNames`) and the swarm is just without
        it, or cannot be asked.
        """
        named = [info for info in await self.models() if info.name == name]
        if not named:  # what was told may be older than the model
            named = [info for info in self._noted(await self._models.now()) if info.name == name]
        if not named:
            self._names.check(name)
            shown = name if len(name) <= _MAX_QUOTED_NAME else name[:_MAX_QUOTED_NAME] + "…"
            raise UnknownModel(f"The model {shown!r} is not served by the swarm.", param="model")
        return next((info for info in named if info.complete), named[0])

    async def admit(self, caller: Caller | None) -> None:
        """Before the body: count the request. Raises `ApiFailure` when its key asks too often, or its deposit cannot
        be looked up."""
        if caller is not None and self.billing is not None:
            await self.billing.admit(caller)

    async def await_funds(self, caller: Caller | None, model: ModelInfo) -> None:
        """Before a place is taken: the account must be able to pay for the least that there is. Raises `ApiFailure`."""
        if caller is None or self.billing is None:
            return
        tariff = await self.billing.tariff_of(model)
        await self.billing.await_credit(caller.holder, tariff.cost(1, 1))

    @asynccontextmanager
    async def place(self, caller: Caller | None) -> AsyncIterator[None]:
        """One of the `max_concurrent` places. Raises `Refused` at once when none is free for this caller."""
        payer = None if caller is None else caller.payer
        if not self.places.enter(payer):
            own = "" if payer is None else f", {self.places.running.get(payer, 0)} of them this account's"
            raise Refused(f"The gateway already answers {self.running} requests{own}.", retry_after=1.0)
        try:
            yield
        finally:
            self.places.leave(payer)

    def bill(self, caller: Caller | None, job: Job) -> Bill:
        """What counts the cost of a request; without a caller nothing does."""
        if caller is None or self.billing is None:
            return NoBill(job)
        return AccountBill(self.billing, caller, job, at_once=self.config.sessions_per_request)
