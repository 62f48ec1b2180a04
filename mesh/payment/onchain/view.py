"""The chain as the data path sees it: the newest block's epoch, and cached facts about gateways and providers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from chain.client.staking import StakingClient
from chain.errors import ChainError, ContractError
from chain.vouchers import Domain
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.terms import NotAccepted, ProviderFacts

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 0.5
FACT_SECONDS = 5.0
MAX_FACTS = 8192


class StakingView:
    """`credit.terms.ChainView` over a connected client. Call `start` first, and `run` beside what uses it."""

    def __init__(
        self, client: StakingClient, *, poll_seconds: float = POLL_SECONDS, fact_seconds: float = FACT_SECONDS
    ) -> None:
        self._client = client
        self._poll_seconds = poll_seconds
        self._fact_seconds = fact_seconds
        self._epoch = 0
        self._facts: dict[Hashable, tuple[float, Any]] = {}
        self._locks: dict[Hashable, asyncio.Lock] = {}
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

    async def check_gateway(self, binding: Binding) -> None:
        """See `ChainView`."""
        active, signer = await self._fact(("gateway", binding.id), lambda: self._gateway(binding.id))
        if not active:
            raise NotAccepted(f"gateway {binding.id!r} is not active on the chain: is it registered and staked?")
        if signer != binding.address:
            raise NotAccepted(f"{binding.address} does not sign for gateway {binding.id!r}")

    async def check_provider(self, binding: Binding) -> ProviderFacts:
        """See `ChainView`."""
        active, facts = await self._fact(("provider", binding.id), lambda: self._provider(binding.id))
        if not active:
            raise NotAccepted(f"provider {binding.id!r} is not active on the chain: is it registered and staked?")
        if facts.signer != binding.address:
            raise NotAccepted(f"{binding.address} does not sign for provider {binding.id!r}")
        return facts

    async def _gateway(self, identifier: str) -> tuple[bool, str]:
        try:
            status = await self._client.gateways.status(identifier)
        except ContractError:
            return False, ""
        return status.active, status.signer

    async def _provider(self, identifier: str) -> tuple[bool, ProviderFacts]:
        try:
            status = await self._client.providers.status(identifier)
        except ContractError:
            return False, ProviderFacts("", 0, b"")
        model = await self._fact(("model", status.model_id), lambda: self._client.models.show(status.model_id))
        return status.active, ProviderFacts(status.signer, status.model_id, model.manifest_hash)

    async def _fact(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """A fact of at most `fact_seconds` and of this epoch; an old one when the chain does not answer now.

        Raises `NotAccepted` where the chain does not answer and nothing is known.
        """
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._facts.get(key)
            if known is not None and time.monotonic() - known[0] < self._fact_seconds:
                found: T = known[1]
                return found
            try:
                fact = await ask()
            except ChainError as error:
                if known is None:
                    raise NotAccepted(f"the chain does not answer: {error}") from error
                logger.warning("the chain does not answer, an older answer stands: %s", error)
                return known[1]  # type: ignore[no-any-return]
            if len(self._facts) >= MAX_FACTS:
                self._facts.clear()
                self._locks.clear()
            self._facts[key] = (time.monotonic(), fact)
            return fact
