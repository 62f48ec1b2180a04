"""Prices and deposits from the chain, each kept for a few seconds."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
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
MAX_NAME_BYTES: Final = 64

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
    """Implements `PriceSource`: the marketplace's entry of a name, which must be of the digest that the swarm serves.

    Names are unique on the chain; a digest is not: anybody may publish a stranger's under another name and price.
    """

    def __init__(self, client: StakingClient, *, fresh: float = FRESH_SECONDS) -> None:
        self._client = client
        self._entries: Cached[str, tuple[int, str] | None] = Cached(self._find, fresh=fresh)
        self._prices: Cached[tuple[int, int], int | None] = Cached(self._price, fresh=fresh)
        self._epochs: Cached[None, int] = Cached(self._epoch, fresh=fresh)

    async def epoch(self) -> int:
        return await self._epochs.get(None)

    async def price_of(self, name: str, digest: str, epoch: int) -> int | None:
        """Wei for one weighted token in `epoch`; None where the chain has no such model, or it is disabled."""
        entry = await self._entries.get(name)
        if entry is None or entry[1] != digest:
            return None
        return await self._prices.get((entry[0], epoch))

    async def close(self) -> None:
        """Stop asking."""
        await self._entries.close()
        await self._prices.close()
        await self._epochs.close()

    async def _find(self, name: str) -> tuple[int, str] | None:
        """The number of the model of this name, and its digest."""
        if not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
            return None  # no model is called so
        model_id = await self._client.models.id_of(name)
        if model_id is None:
            return None
        model = await self._client.core.view("ModelRegistry", "model", model_id)
        return model_id, bytes(model.manifest_hash).hex()

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
            ("Escrow", "available", (who, self._gateway_key)),
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
