"""The chain as the data path sees it: the newest block's epoch, and cached facts about gateways and providers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from chain.client.staking import StakingClient
from chain.errors import ChainError
from chain.primitives import key_of
from chain.vouchers import Domain
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.terms import GatewayFacts, NotAccepted, ProviderFacts
from mesh.payment.credit.units import ModelPrice
from mesh.payment.facts import STALE_SECONDS, Facts, Unanswered

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 0.5
FACT_SECONDS = 5.0
MAX_FACTS = 8192
STRANGER_FACTS = 6
"""So many times as long as others stands the fact that somebody is not eligible: records of strangers cost nothing, and
each would have the chain asked anew."""
AT_ONCE = 8
"""Parties that the chain is asked about at one time."""


class StakingView:
    """`credit.terms.ChainView` over a connected client. Call `start` first, and `run` beside what uses it."""

    def __init__(
        self,
        client: StakingClient,
        *,
        poll_seconds: float = POLL_SECONDS,
        fact_seconds: float = FACT_SECONDS,
        old_seconds: float = STALE_SECONDS,
    ) -> None:
        self._client = client
        self._poll_seconds = poll_seconds
        self._fact_seconds = fact_seconds
        self._epoch = 0
        self._facts: Facts[Hashable, Any] = Facts(stale=old_seconds, most=MAX_FACTS)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._turned = asyncio.Event()
        deployment = client.deployment
        self._domain = Domain(deployment.chain_id, bytes.fromhex(deployment.address("Settlement")[2:]))

    @property
    def domain(self) -> Domain:
        return self._domain

    @property
    def epoch(self) -> int:
        return self._epoch

    async def start(self) -> None:
        """Read the epoch for the first time. Raises `ChainError`."""
        self._epoch = await self._client.epochs.current_epoch()

    async def close(self) -> None:
        """Ask nothing any more."""
        await self._facts.close()

    async def run(self) -> NoReturn:
        """Follow the chain's epoch until cancelled; a chain that does not answer is asked again."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._turned.wait()
            self._turned.clear()
            try:
                # It only grows: a node that lags, or a reorganisation, does not bring an epoch back.
                self._epoch = max(self._epoch, await self._client.epochs.current_epoch())
            except ChainError as error:
                logger.warning("the chain does not answer: %s", error)

    async def check_gateway(self, binding: Binding) -> GatewayFacts:
        """See `ChainView`."""
        epoch = self._epoch
        eligible, signer = await self._fact(("gateway", binding.id), lambda: self._gateway(binding.id, epoch))
        if not eligible:
            raise NotAccepted(
                f"gateway {binding.id!r} is not eligible on the chain: it must be registered, staked with the least "
                "stake besides its lines, neither winding down nor jailed"
            )
        if signer != binding.address:
            raise NotAccepted(f"{binding.address} does not sign for gateway {binding.id!r} in epoch {epoch}")
        return GatewayFacts(signer, epoch)

    async def check_provider(self, binding: Binding) -> ProviderFacts:
        """See `ChainView`."""
        epoch = self._epoch
        eligible, facts = await self._fact(("provider", binding.id), lambda: self._provider(binding.id, epoch))
        if not eligible:
            raise NotAccepted(
                f"provider {binding.id!r} is not eligible on the chain: it must be registered for an enabled model, "
                "fully staked and not jailed"
            )
        if facts.signer != binding.address:
            raise NotAccepted(f"{binding.address} does not sign for provider {binding.id!r} in epoch {epoch}")
        return facts

    async def gateway_signer(self, gateway: str, epoch: int) -> str:
        """See `ChainView`."""
        return await self._fact(("signer", gateway, epoch), lambda: self._signer("GatewayRegistry", gateway, epoch))

    async def guarantee(self, gateway: str, provider: str, *, since: float = 0.0) -> int:
        """See `ChainView`."""
        return await self._fact(("line", gateway, provider), lambda: self._guarantee(gateway, provider), since=since)

    async def tariff(self, model_id: int, epoch: int) -> ModelPrice:
        """See `ChainView`."""
        if epoch > self._epoch + 1:
            raise NotAccepted(f"what work costs in epoch {epoch} is not fixed yet")
        return await self._fact(("tariff", model_id, epoch), lambda: self._tariff(model_id, epoch), fixed=True)

    # --- asking ---

    async def _gateway(self, identifier: str, epoch: int) -> tuple[bool, str]:
        key = key_of(identifier)
        async with self._places:
            eligible, signer = await self._client.core.views(
                [("GatewayRegistry", "isEligibleKey", (key,)), ("GatewayRegistry", "signerAt", (key, epoch))]
            )
        return bool(eligible), str(signer)

    async def _provider(self, identifier: str, epoch: int) -> tuple[bool, ProviderFacts]:
        key = key_of(identifier)
        async with self._places:
            eligible, signer, found = await self._client.core.views(
                [
                    ("ProviderRegistry", "isEligible", (identifier,)),
                    ("ProviderRegistry", "signerAt", (key, epoch)),
                    ("ProviderRegistry", "ownerAndModel", (key,)),
                ]
            )
        if not eligible:
            return False, ProviderFacts("", 0, b"", "")
        _, model_id = found.values()
        manifest, name = await self._facts.get(
            ("model", model_id), lambda: self._model(model_id), fresh=self._fresh, fixed=True
        )
        return True, ProviderFacts(str(signer), model_id, manifest, name)

    async def _model(self, model_id: int) -> tuple[bytes, str]:
        model = await self._client.core.view("ModelRegistry", "model", model_id)
        # A name that is no text comes as a subclass that only describes it.
        return bytes(model.manifest_hash), model.name if type(model.name) is str else ""

    async def _signer(self, registry: str, identifier: str, epoch: int) -> str:
        return str(await self._client.core.view(registry, "signerAt", key_of(identifier), epoch))

    async def _guarantee(self, gateway: str, provider: str) -> int:
        return int(await self._client.core.view("GatewayStaking", "guaranteed", key_of(gateway), key_of(provider)))

    async def _tariff(self, model_id: int, epoch: int) -> ModelPrice:
        price, model = await self._client.core.views(
            [("ModelRegistry", "priceAt", (model_id, epoch)), ("ModelRegistry", "model", (model_id,))]
        )
        return ModelPrice(int(price), int(model.blocks))

    async def _fact(
        self, key: Hashable, ask: Callable[[], Awaitable[T]], *, since: float = -math.inf, fixed: bool = False
    ) -> T:
        """A fact as `Facts.get` has it, of this epoch. Raises `NotAccepted` where there is none that stands."""
        try:
            value: T = await self._facts.get(
                key, ask, fresh=self._fresh, since=since, epoch=0 if fixed else self._epoch, fixed=fixed
            )
        except Unanswered as error:
            raise NotAccepted(f"the chain does not answer: {error}") from error
        return value

    def _fresh(self, value: Any) -> float:
        stranger = isinstance(value, tuple) and value[0] is False
        return self._fact_seconds * (STRANGER_FACTS if stranger else 1)
