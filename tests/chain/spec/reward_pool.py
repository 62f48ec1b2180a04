"""Emission with a hard cap, and the boosts that sponsors pay into a model's pot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chain.contract_errors import CapTooSmall, EpochPassed, UnknownModel, ZeroAmount
from chain.emission import EmissionSchedule, emission_for
from chain.primitives import Address, share_of
from tests.chain.spec.base import Stoppable, Tx, call
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger


class RewardPool(Stoppable):
    def __init__(self, ledger: Ledger, address: Address, owner: Address, cap: int, schedule: EmissionSchedule) -> None:
        super().__init__(ledger, address, owner)
        if schedule.total > cap:
            raise CapTooSmall(cap, schedule.total)
        self.emission_cap = cap
        self.schedule = schedule
        self._emitted = Cell(ledger.journal, 0)
        self._boosts: Table[tuple[int, int], int] = Table(ledger.journal, 0)

    @property
    def emitted(self) -> int:
        return self._emitted.value

    def boost_of(self, model_id: int, epoch: int) -> int:
        return self._boosts[model_id, epoch]

    def owed(self) -> int:
        """All that this contract must hold."""
        return sum(boost for _, boost in self._boosts.items())

    @call
    def boost(self, tx: Tx, model_id: int, epoch: int, amount: int) -> None:
        self.not_paused()
        if not self.ledger.models.exists(model_id):
            raise UnknownModel(model_id)
        if not amount:
            raise ZeroAmount()
        if epoch < self.epoch(tx):
            raise EpochPassed(epoch, self.epoch(tx))
        burned = share_of(amount, self.ledger.settlement.parameters(tx.block).burn_bps)
        self._boosts[model_id, epoch] += amount - burned
        self.ledger.models.record_burn(model_id, burned)
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)
        self.ledger.token.destroy(self.address, burned)

    def settle(self, model_id: int, epoch: int, weight: int, total_weight: int, to: Address) -> tuple[int, int]:
        """Settlement mints an epoch's emission and hands over its boosts, once. Returns both."""
        left = self.emission_cap - self.emitted
        emission = emission_for(self.schedule.budget(epoch), weight, total_weight, left)
        boosted = self._boosts[model_id, epoch]
        self._emitted.value += emission
        self._boosts[model_id, epoch] = 0
        if emission:
            self.ledger.token.mint(Tx(self.address, 0), to, emission)
        self.ledger.token.move(self.address, to, boosted)
        return emission, boosted
