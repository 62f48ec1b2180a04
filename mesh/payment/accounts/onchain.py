"""Prices and deposits from the chain, each kept for a few seconds."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Final, Generic, TypeVar

from chain.client.staking import StakingClient
from chain.errors import ChainError
from chain.primitives import Address, checksummed, key_of
from mesh.payment.accounts.ports import Backing, Unavailable

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 3.0
STALE_SECONDS: Final = 60.0
"""While the node does not answer, what it said last is good for so long."""
MAX_KEPT: Final = 10_000
MAX_MODELS: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cached(Generic[K, V]):
    """Answers of `ask` by key, at most `most` of them; each is asked for by one task at a time, until `close`.

    An answer is given out as it is for `fresh` seconds, and again as long while a newer one is on its way, so that a
    stream does not wait for the node every few seconds.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[V]],
        *,
        fresh: float = FRESH_SECONDS,
        stale: float = STALE_SECONDS,
        most: int = MAX_KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._fresh = fresh
        self._stale = stale
        self._most = most
        self._clock = clock
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Raises `Unavailable` when there is no answer, and none that is younger than `stale`."""
        known = self._known.get(key)
        age = math.inf if known is None else self._clock() - known[0]
        if known is not None and age < self._fresh:
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._renew(key))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        if known is not None and age < 2 * self._fresh:
            return known[1]
        try:
            # Shielded: others may wait for the same answer.
            return await asyncio.shield(task)
        except ChainError as error:
            if known is not None and age < self._stale:
                return known[1]
            raise Unavailable(str(error)) from error

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self, key: K) -> V:
        began = self._clock()
        value = await self._ask(key)
        self._known[key] = (began, value)
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return value

    def _asked(self, key: K, done: asyncio.Task[V]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.debug("the chain was asked in vain: %s", error)


class ChainPrices:
    """Implements `PriceSource`: the model whose manifest hash is the digest that the swarm serves.

    Where several have the same, the first that is enabled counts; `models` (digest → number on the chain) says
    otherwise.
    """

    def __init__(
        self, client: StakingClient, *, models: Mapping[str, int] | None = None, fresh: float = FRESH_SECONDS
    ) -> None:
        self._client = client
        self._chosen = dict(models or {})
        self._manifests: dict[int, str] = {}
        self._ids: Cached[str, int | None] = Cached(self._find, fresh=fresh)
        self._prices: Cached[tuple[int, int], int | None] = Cached(self._price, fresh=fresh)
        self._epochs: Cached[None, int] = Cached(self._epoch, fresh=fresh)

    async def epoch(self) -> int:
        return await self._epochs.get(None)

    async def price_of(self, name: str, digest: str, epoch: int) -> int | None:
        """Wei for one weighted token in `epoch`; None where the chain has no such model, or it is disabled."""
        model_id = self._chosen.get(digest)
        if model_id is None:
            model_id = await self._ids.get(digest)
        return None if model_id is None else await self._prices.get((model_id, epoch))

    async def model_id(self, digest: str) -> int | None:
        """The number on the chain of the model with this digest."""
        return self._chosen.get(digest) or await self._ids.get(digest)

    async def close(self) -> None:
        """Stop asking."""
        await self._ids.close()
        await self._prices.close()
        await self._epochs.close()

    async def _find(self, digest: str) -> int | None:
        core = self._client.core
        count = min(await self._client.models.model_count(), MAX_MODELS)
        new = [each for each in range(1, count + 1) if each not in self._manifests]
        found = await core.views([("ModelRegistry", "model", (each,)) for each in new]) if new else []
        self._manifests.update((each, model.manifest_hash.hex()) for each, model in zip(new, found, strict=True))
        candidates = [each for each, manifest in sorted(self._manifests.items()) if manifest == digest]
        enabled = await core.views([("ModelRegistry", "isEnabled", (each,)) for each in candidates])
        return next((each for each, is_enabled in zip(candidates, enabled, strict=True) if is_enabled), None)

    async def _price(self, key: tuple[int, int]) -> int | None:
        model_id, epoch = key
        enabled, price = await self._client.core.views(
            [("ModelRegistry", "isEnabled", (model_id,)), ("ModelRegistry", "priceAt", (model_id, epoch))]
        )
        return int(price) if enabled else None

    async def _epoch(self, key: None) -> int:
        (epoch,) = await self._client.core.views([("EpochController", "currentEpoch", ())])
        return int(epoch)


class ChainEscrow:
    """Implements `EscrowView` for one gateway."""

    def __init__(self, client: StakingClient, gateway_id: str, *, fresh: float = FRESH_SECONDS) -> None:
        self._client = client
        self._gateway_key = key_of(gateway_id)
        self._deposits: Cached[Address, Backing] = Cached(self._deposit, fresh=fresh)
        self._signers: Cached[tuple[Address, Address], bool] = Cached(self._may_sign, fresh=fresh)

    async def deposit_of(self, payer: Address) -> Backing:
        return await self._deposits.get(payer)

    async def may_sign(self, payer: Address, signer: Address) -> bool:
        """Through this epoch and the next: a voucher must still be good when it is redeemed."""
        return await self._signers.get((payer, signer))

    async def close(self) -> None:
        """Stop asking."""
        await self._deposits.close()
        await self._signers.close()

    async def _deposit(self, payer: Address) -> Backing:
        who = checksummed(payer)
        calls: list[tuple[str, str, tuple[Any, ...]]] = [
            ("Escrow", "available", (who,)),
            ("Escrow", "redeemed", (who, self._gateway_key)),
        ]
        # One block for both: a redemption between them would be seen on one side only.
        block = await self._client.core.block_number()
        available, redeemed = await self._client.core.views(calls, block=block)
        return Backing(int(available), int(redeemed))

    async def _may_sign(self, pair: tuple[Address, Address]) -> bool:
        payer, signer = pair
        until, epoch = await self._client.core.views(
            [
                ("Escrow", "signerUntil", (checksummed(payer), checksummed(signer))),
                ("EpochController", "currentEpoch", ()),
            ]
        )
        return bool(until >= epoch + 2)
