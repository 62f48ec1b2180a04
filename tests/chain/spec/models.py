"""Models: price, royalty and stake requirement, usage counters, ratings by those who paid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    InvalidScore,
    ModelAlreadyDisabled,
    ModelAlreadyEnabled,
    ModelNameTaken,
    NotModelCreator,
    NotRated,
    NoVotingStake,
    Unauthorized,
    UnknownModel,
    ZeroAmount,
)
from chain.primitives import ZERO_HASH, Address, Bytes32, ceil_div, checksummed, key_of
from tests.chain.spec.base import Stoppable, Tx, at_epoch, call, check_bounds, check_id, check_metadata, with_change
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MAX_BLOCKS: Final = 4096
MAX_ROYALTY_BPS: Final = 5000
PRICE_NOTICE: Final = 2
"""Epochs before a new price holds."""


@dataclass(frozen=True, slots=True)
class Model:
    """`prices`: wei per weighted token through all blocks, with the epoch from which each holds."""

    creator: Address
    blocks: int
    royalty_bps: int
    enabled: bool
    stake_amount: int
    manifest_hash: Bytes32
    name: str
    metadata_uri: str
    prices: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over finalised epochs with work: units, wei paid, wei burned for good (boosts' too), number of epochs."""

    units: int = 0
    fees: int = 0
    burned: int = 0
    epochs: int = 0


@dataclass(frozen=True, slots=True)
class Rating:
    score: int = 0
    weight: int = 0


class ModelRegistry(Stoppable):
    """Models are numbered 1, 2, 3, …"""

    def __init__(self, ledger: Ledger, address: Address, owner: Address) -> None:
        super().__init__(ledger, address, owner)
        self._count = Cell(ledger.journal, 0)
        self._models: Table[int, Model | None] = Table(ledger.journal, None)
        self._names: Table[str, int] = Table(ledger.journal, 0)
        self._usage: Table[int, Usage] = Table(ledger.journal, Usage())
        self._spent: Table[tuple[int, Bytes32], int] = Table(ledger.journal, 0)
        self._ratings: Table[tuple[int, Bytes32], Rating] = Table(ledger.journal, Rating())

    @property
    def model_count(self) -> int:
        return self._count.value

    def model_id_of(self, name: str) -> int:
        """0 if no model has that name."""
        return self._names[name]

    def exists(self, model_id: int) -> bool:
        return self._models[model_id] is not None

    def model(self, model_id: int) -> Model:
        found = self._models[model_id]
        if found is None:
            raise UnknownModel(model_id)
        return found

    def price_at(self, model_id: int, epoch: int) -> int:
        return at_epoch(self.model(model_id).prices, epoch, 0)

    def fee_for(self, model_id: int, epoch: int, units: int) -> int:
        """ceil(units × price ÷ blocks), wei."""
        return ceil_div(units * self.price_at(model_id, epoch), self.model(model_id).blocks)

    def units_for(self, model_id: int, epoch: int, amount: int) -> int:
        """floor(amount × blocks ÷ price): the work that `amount` wei pay for; 0 if it is free."""
        price = self.price_at(model_id, epoch)
        return amount * self.model(model_id).blocks // price if price else 0

    def usage(self, model_id: int) -> Usage:
        self.model(model_id)
        return self._usage[model_id]

    def spent_by(self, model_id: int, gateway: Bytes32) -> int:
        """Wei that the gateway's posted fees have burned for this model for good."""
        return self._spent[model_id, gateway]

    def rating(self, model_id: int) -> tuple[int, int]:
        """Sum of score × weight, and sum of weights."""
        self.model(model_id)
        given = [rating for (rated, _), rating in self._ratings.items() if rated == model_id]
        return sum(r.score * r.weight for r in given), sum(r.weight for r in given)

    @call
    def create_model(
        self,
        tx: Tx,
        name: str,
        manifest_hash: Bytes32,
        metadata_uri: str,
        blocks: int,
        price_per_token: int,
        royalty_bps: int,
        model_stake_amount: int,
    ) -> int:
        self.not_paused()
        check_id(name)
        if self._names[name]:
            raise ModelNameTaken(name)
        if manifest_hash == ZERO_HASH:
            raise ZeroAmount()
        check_metadata(metadata_uri)
        check_bounds(blocks, 1, MAX_BLOCKS)
        check_bounds(royalty_bps, 0, MAX_ROYALTY_BPS)
        if not model_stake_amount:
            raise ZeroAmount()
        self._count.value += 1
        model_id = self._count.value
        self._names[name] = model_id
        self._models[model_id] = Model(
            creator=tx.sender,
            blocks=blocks,
            royalty_bps=royalty_bps,
            enabled=True,
            stake_amount=model_stake_amount,
            manifest_hash=manifest_hash,
            name=name,
            metadata_uri=metadata_uri,
            prices=((self.epoch(tx), price_per_token),),
        )
        self.ledger.router.create_pool(model_id)
        return model_id

    @call
    def enable(self, tx: Tx, model_id: int) -> None:
        model = self._created_by(tx, model_id)
        if model.enabled:
            raise ModelAlreadyEnabled(model_id)
        self._models[model_id] = replace(model, enabled=True)

    @call
    def disable(self, tx: Tx, model_id: int) -> None:
        model = self._created_by(tx, model_id)
        if not model.enabled:
            raise ModelAlreadyDisabled(model_id)
        self._models[model_id] = replace(model, enabled=False)

    @call
    def update_price(self, tx: Tx, model_id: int, price_per_token: int) -> None:
        self.not_paused()
        model = self._created_by(tx, model_id)
        prices = with_change(model.prices, self.epoch(tx) + PRICE_NOTICE, price_per_token)
        self._models[model_id] = replace(model, prices=prices)

    @call
    def rate_model(self, tx: Tx, model_id: int, gateway_id: str, score: int) -> None:
        """A gateway's opinion: it pays for the work."""
        self.not_paused()
        self.model(model_id)
        if not 1 <= score <= 5:
            raise InvalidScore(score)
        key = key_of(gateway_id)
        if self.ledger.gateways.known(key).owner != tx.sender:
            raise Unauthorized(checksummed(tx.sender))
        weight = self._weight(model_id, key)
        if not weight:
            raise NoVotingStake(key)
        self._ratings[model_id, key] = Rating(score, weight)

    @call
    def refresh_rating(self, tx: Tx, model_id: int, gateway_id: str) -> None:
        self.model(model_id)
        key = key_of(gateway_id)
        rating = self._ratings[model_id, key]
        if not rating.score:
            raise NotRated(model_id, key)
        self._ratings[model_id, key] = replace(rating, weight=self._weight(model_id, key))

    # --- what settlement and the reward pool use ---

    def record_usage(self, model_id: int, units: int, fees: int, burned: int) -> None:
        """Settlement adds a finalised epoch."""
        old = self._usage[model_id]
        self._usage[model_id] = Usage(old.units + units, old.fees + fees, old.burned + burned, old.epochs + 1)

    def record_burn(self, model_id: int, amount: int) -> None:
        """The reward pool adds the burned part of a boost."""
        old = self._usage[model_id]
        self._usage[model_id] = replace(old, burned=old.burned + amount)

    def record_spend(self, model_id: int, gateway: Bytes32, amount: int) -> None:
        """Settlement adds what a checkpoint's fees burn for good."""
        self._spent[model_id, gateway] += amount

    def _created_by(self, tx: Tx, model_id: int) -> Model:
        model = self.model(model_id)
        if model.creator != tx.sender:
            raise NotModelCreator(model_id, checksummed(tx.sender))
        return model

    def _weight(self, model_id: int, gateway: Bytes32) -> int:
        """By stake, and never more than was burned for the model."""
        return min(self.ledger.gateway_staking.effective_stake_of_key(gateway), self._spent[model_id, gateway])
