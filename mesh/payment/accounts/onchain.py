"""Prices and deposits from the chain, each kept for a few seconds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, TypeVar

from chain.client.staking import StakingClient
from chain.primitives import Address, checksummed, key_of
from mesh.payment.accounts.ports import Backing, Unavailable
from mesh.payment.facts import Cached, Silence, Unanswered

FRESH_SECONDS: Final = 3.0
MAX_NAME_BYTES: Final = 64

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Asked:
    """What is known of the chain through one client."""

    def __init__(self) -> None:
        self._caches: list[Cached[Any, Any]] = []

    async def close(self) -> None:
        """Stop asking."""
        for cache in self._caches:
            await cache.close()

    async def _get(self, cache: Cached[K, V], key: K) -> V:
        """Raises `Unavailable`."""
        try:
            return await cache.get(key)
        except Unanswered as error:
            raise Unavailable(str(error)) from error


class ChainPrices(_Asked):
    """Implements `PriceSource`: the marketplace's entry of a name, which must be of the digest that the swarm serves.

    Names are unique on the chain; a digest is not: anybody may publish a stranger's under another name and price.
    """

    def __init__(self, client: StakingClient, *, fresh: float = FRESH_SECONDS, silence: Silence | None = None) -> None:
        self._client = client
        shared = silence or Silence()
        self._entries: Cached[str, tuple[int, str] | None] = Cached(self._find, fresh=fresh, silence=shared)
        self._prices: Cached[tuple[int, int], int | None] = Cached(self._price, fresh=fresh, silence=shared)
        self._epochs: Cached[None, int] = Cached(self._epoch, fresh=fresh, silence=shared)
        self._caches = [self._entries, self._prices, self._epochs]

    async def epoch(self) -> int:
        return await self._get(self._epochs, None)

    async def price_of(self, name: str, digest: str, epoch: int) -> int | None:
        """Wei for one weighted token in `epoch`; None where the chain has no such model, or it is disabled."""
        entry = await self._get(self._entries, name)
        if entry is None or entry[1] != digest:
            return None
        price = await self._get(self._prices, (entry[0], epoch))
        self._prices.ask_ahead((entry[0], epoch + 1))
        return price

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


class ChainEscrow(_Asked):
    """Implements `EscrowView` for one gateway."""

    def __init__(
        self, client: StakingClient, gateway_id: str, *, fresh: float = FRESH_SECONDS, silence: Silence | None = None
    ) -> None:
        self._client = client
        self._gateway_key = key_of(gateway_id)
        shared = silence or Silence()
        self._deposits: Cached[Address, Backing] = Cached(self._deposit, fresh=fresh, silence=shared)
        self._signers: Cached[tuple[Address, Address], bool] = Cached(self._may_sign, fresh=fresh, silence=shared)
        self._caches = [self._deposits, self._signers]

    async def deposit_of(self, payer: Address) -> Backing:
        return await self._get(self._deposits, payer)

    async def may_sign(self, payer: Address, signer: Address) -> bool:
        """Through this epoch and the next: a voucher must still be good when it is redeemed."""
        return await self._get(self._signers, (payer, signer))

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
