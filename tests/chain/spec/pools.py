"""One pool per model behind the router: provider stakes, and each epoch's pot with who has earned and claimed of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chain.contract_errors import (
    AlreadyStaked,
    ModelNotEnabled,
    NothingToClaim,
    NotProviderOwner,
    NotStaked,
    RewardsNotReady,
    StakeLocked,
    StakeUnderDispute,
    UnknownModel,
    WrongPool,
)
from chain.primitives import Address, Bytes32, checksummed, key_of
from tests.chain.spec.base import Part, Stoppable, Tx, call, check_range
from tests.chain.spec.journal import Cell, Table
from tests.chain.spec.providers import Provider

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger


@dataclass(frozen=True, slots=True)
class ProviderStake:
    amount: int = 0
    unlock_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Pot:
    """A finalised epoch: wei and units in all, and of both what proofs have allotted to providers."""

    amount: int = 0
    total_units: int = 0
    allotted: int = 0
    proven_units: int = 0


@dataclass(frozen=True, slots=True)
class Contribution:
    """Proven units of a provider in an epoch, and the wei that wait to be claimed for them."""

    units: int = 0
    unclaimed: int = 0


class Router(Stoppable):
    """Makes and finds the pools. Pausing it pauses staking in all of them."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address) -> None:
        super().__init__(ledger, address, owner)
        self._pools: Table[int, ProviderStaking | None] = Table(ledger.journal, None)

    def pool(self, model_id: int) -> ProviderStaking:
        found = self._pools[model_id]
        if found is None:
            raise UnknownModel(model_id)
        return found

    def create_pool(self, model_id: int) -> None:
        address = self.ledger.pool_address(model_id)
        self._pools[model_id] = ProviderStaking(self.ledger, address, self.owner, model_id)


class ProviderStaking(Part):
    """The pool of one model."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address, model_id: int) -> None:
        super().__init__(ledger, address, owner)
        self.model_id = model_id
        self._carried = Cell(ledger.journal, 0)
        self._stakes: Table[Bytes32, ProviderStake] = Table(ledger.journal, ProviderStake())
        self._pots: Table[int, Pot] = Table(ledger.journal, Pot())
        self._contributions: Table[tuple[Bytes32, int], Contribution] = Table(ledger.journal, Contribution())

    @property
    def carried(self) -> int:
        """Wei waiting for the next pot."""
        return self._carried.value

    @property
    def total_stake(self) -> int:
        return sum(stake.amount for _, stake in self._stakes.items())

    def stake_of_key(self, key: Bytes32) -> ProviderStake:
        return self._stakes[key]

    def pot(self, epoch: int) -> Pot:
        return self._pots[epoch]

    def pots(self) -> dict[int, Pot]:
        return dict(self._pots.items())

    def contribution(self, identifier: str, epoch: int) -> Contribution:
        return self._contributions[key_of(identifier), epoch]

    def contributions(self) -> dict[tuple[Bytes32, int], Contribution]:
        """By provider's key and epoch."""
        return dict(self._contributions.items())

    def view_rewards(self, identifier: str, first: int, last: int, block: int) -> int:
        """What a claim would pay now for what is proven; epochs that are not ready count 0."""
        key, _ = self._find(identifier)
        check_range(first, last)
        ready = min(last, self.ledger.epochs.claimable_epoch(block))
        return sum(self._contributions[key, e].unclaimed for e in range(first, ready + 1))

    @call
    def stake_for_provider(self, tx: Tx, identifier: str) -> None:
        self._stake(tx, identifier, self.address, tx.sender)

    def stake_from_registry(self, tx: Tx, identifier: str) -> None:
        """With tokens that the registry already holds and has approved."""
        self._stake(tx, identifier, None, self.ledger.providers.address)

    @call
    def unstake_provider(self, tx: Tx, identifier: str) -> None:
        key, provider = self._find(identifier)
        if provider.owner != tx.sender:
            raise NotProviderOwner(key, checksummed(tx.sender))
        stake = self._stakes[key]
        if not stake.amount:
            raise NotStaked(key)
        if self.epoch(tx) < stake.unlock_epoch:
            raise StakeLocked(key, stake.unlock_epoch)
        if self.ledger.slashing.is_stake_held(key, tx.block):
            raise StakeUnderDispute(key)
        self._stakes[key] = ProviderStake()
        self.ledger.token.move(self.address, tx.sender, stake.amount)

    @call
    def claim_rewards(self, tx: Tx, identifier: str, first: int, last: int) -> int:
        """Wei paid to the owner for epochs `first … last`; the registry calls this too, as the owner."""
        key, provider = self._find(identifier)
        if provider.owner != tx.sender:
            raise NotProviderOwner(key, checksummed(tx.sender))
        check_range(first, last)
        claimable = self.ledger.epochs.claimable_epoch(tx.block)
        if last > claimable:
            raise RewardsNotReady(last, claimable)
        epochs = range(first, last + 1)
        amount = sum(self._contributions[key, e].unclaimed for e in epochs)
        if not amount:
            raise NothingToClaim()
        for epoch in epochs:
            own = self._contributions[key, epoch]
            if own.unclaimed:
                self._contributions[key, epoch] = replace(own, unclaimed=0)
        self.ledger.token.move(self.address, provider.owner, amount)
        return amount

    def record_contribution(self, key: Bytes32, epoch: int, units: int) -> None:
        """Settlement adds proven units, and with them their part of the pot: a difference of floors."""
        own, pot = self._contributions[key, epoch], self._pots[epoch]
        reward = pot.amount * (own.units + units) // pot.total_units - pot.amount * own.units // pot.total_units
        self._contributions[key, epoch] = Contribution(own.units + units, own.unclaimed + reward)
        allotted, proven = pot.allotted + reward, pot.proven_units + units
        if proven == pot.total_units:
            # The last unit: the rounding remainder goes into the next pot and counts as allotted from this one.
            self._carried.value += pot.amount - allotted
            allotted = pot.amount
        self._pots[epoch] = replace(pot, allotted=allotted, proven_units=proven)

    def fund_pot(self, epoch: int, amount: int, total_units: int) -> int:
        """Settlement hands over an epoch's wei; without work they wait for the next pot. Returns the pot."""
        if not total_units:
            self._carried.value += amount
            return 0
        pot = Pot(amount + self.carried, total_units)
        self._carried.value = 0
        self._pots[epoch] = pot
        return pot.amount

    def slash(self, key: Bytes32, amount: int, to: Address) -> int:
        """Moves up to `amount` of a stake to `to`; returns what was taken."""
        stake = self._stakes[key]
        taken = min(amount, stake.amount)
        self._stakes[key] = replace(stake, amount=stake.amount - taken)
        self.ledger.token.move(self.address, to, taken)
        return taken

    def _stake(self, tx: Tx, identifier: str, spender: Address | None, source: Address) -> None:
        self.ledger.router.not_paused()
        key, provider = self._find(identifier)
        if provider.owner != tx.sender:
            raise NotProviderOwner(key, checksummed(tx.sender))
        model = self.ledger.models.model(self.model_id)
        if not model.enabled:
            raise ModelNotEnabled(self.model_id)
        stake = self._stakes[key]
        if stake.amount >= model.stake_amount:
            raise AlreadyStaked(key)
        unlock = self.epoch(tx) + self.ledger.epochs.min_epochs_locked
        self._stakes[key] = ProviderStake(model.stake_amount, unlock)
        missing = model.stake_amount - stake.amount
        if spender is None:
            self.ledger.token.move(source, self.address, missing)
        else:
            self.ledger.token.pull(spender, source, self.address, missing)

    def _find(self, identifier: str) -> tuple[Bytes32, Provider]:
        key = key_of(identifier)
        provider = self.ledger.providers.known(key)
        if provider.model_id != self.model_id:
            raise WrongPool(key, self.model_id)
        return key, provider
