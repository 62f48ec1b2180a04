"""Gateway stakes: staking, wind-down, restart, unstaking, the claim of routing shares; lines are in their own file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    GatewayInDebt,
    GatewayJailed,
    GatewayNotWoundDown,
    GatewayOverdrawn,
    GatewayWindingDown,
    LinesOpen,
    NothingToClaim,
    NotStaked,
    RewardsNotReady,
    StakeLocked,
    WindDownNotOver,
    ZeroAmount,
)
from chain.primitives import Address, Bytes32, ceil_div, key_of
from tests.chain.spec.base import Tx, call, check_bounds, check_range, uint128
from tests.chain.spec.journal import Cell
from tests.chain.spec.lines import GatewayStake, Lines

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MAX_MIN_STAKE: Final = 10**26


class GatewayStaking(Lines):
    def __init__(self, ledger: Ledger, address: Address, owner: Address, min_gateway_stake: int) -> None:
        super().__init__(ledger, address, owner)
        check_bounds(min_gateway_stake, 1, MAX_MIN_STAKE)
        self._min_stake = Cell(ledger.journal, min_gateway_stake)

    @property
    def min_gateway_stake(self) -> int:
        return self._min_stake.value

    def effective_stake(self, identifier: str) -> int:
        return self.effective_stake_of_key(key_of(identifier))

    def is_overdrawn(self, key: Bytes32) -> bool:
        """Nothing of the stake is left that no line reserves."""
        return not self.effective_stake_of_key(key)

    def view_rewards(self, identifier: str, first: int, last: int, block: int) -> int:
        key = key_of(identifier)
        self.ledger.gateways.known(key)
        check_range(first, last)
        ready = min(last, self.ledger.epochs.claimable_epoch(block))
        return sum(self.ledger.settlement.gateway_share(key, epoch) for epoch in range(first, ready + 1))

    @call
    def stake_for_gateway(self, tx: Tx, identifier: str, amount: int) -> None:
        self.not_paused()
        self._stake(tx, identifier, amount)
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)

    def stake_from_registry(self, tx: Tx, identifier: str, amount: int) -> None:
        """With tokens that the registry already holds and has approved."""
        self.not_paused()
        self._stake(tx, identifier, amount)
        self.ledger.token.move(self.ledger.gateways.address, self.address, amount)

    @call
    def wind_down_gateways(self, tx: Tx, identifiers: Sequence[str]) -> None:
        if not identifiers:
            raise ZeroAmount()
        end = self.epoch(tx) + self.ledger.epochs.wind_down_delay
        for identifier in identifiers:
            key, _ = self.ledger.gateways.mine(tx, identifier)
            stake = self._stakes[key]
            if not stake.amount:
                raise NotStaked(key)
            if stake.wind_down_end:
                raise GatewayWindingDown(key)
            self._stakes[key] = replace(stake, wind_down_end=end)

    @call
    def restart_gateway(self, tx: Tx, identifier: str) -> None:
        self.not_paused()
        key, _ = self.ledger.gateways.mine(tx, identifier)
        stake = self._stakes[key]
        if not stake.wind_down_end:
            raise GatewayNotWoundDown(key)
        self._stakes[key] = replace(stake, wind_down_end=0)

    @call
    def unstake_for_gateway(self, tx: Tx, identifier: str) -> None:
        key, _ = self.ledger.gateways.mine(tx, identifier)
        stake, current = self._stakes[key], self.epoch(tx)
        if not stake.amount:
            raise NotStaked(key)
        if not stake.wind_down_end:
            raise GatewayNotWoundDown(key)
        if current < stake.wind_down_end:
            raise WindDownNotOver(key, stake.wind_down_end)
        if current < stake.unlock_epoch:
            raise StakeLocked(key, stake.unlock_epoch)
        if self.ledger.slashing.is_gateway_jailed(key, tx.block):
            raise GatewayJailed(key, self.ledger.slashing.gateway_jailed_until(key))
        if stake.reserved:
            raise LinesOpen(key, stake.reserved)
        debt = self.ledger.settlement.debt_of(key)
        if debt:
            raise GatewayInDebt(key, debt)
        self._stakes[key] = GatewayStake()
        self.ledger.token.move(self.address, tx.sender, stake.amount)

    @call
    def claim_rewards(self, tx: Tx, identifier: str, first: int, last: int) -> int:
        """Wei of routing shares of epochs `first … last`, paid to the owner."""
        key, _ = self.ledger.gateways.mine(tx, identifier)
        check_range(first, last)
        claimable = self.ledger.epochs.claimable_epoch(tx.block)
        if last > claimable:
            raise RewardsNotReady(last, claimable)
        amount = self.ledger.settlement.take_gateway_shares(key, first, last, tx.sender)
        if not amount:
            raise NothingToClaim()
        return amount

    @call
    def set_min_gateway_stake(self, tx: Tx, amount: int) -> None:
        self.only_owner(tx)
        old = self.min_gateway_stake
        check_bounds(amount, ceil_div(old, 2), min(MAX_MIN_STAKE, 2 * old))
        self._min_stake.value = amount

    # --- what settlement uses ---

    def charge(self, key: Bytes32, amount: int, to: Address) -> None:
        """Moves `amount` of the effective stake to `to`."""
        effective = self.effective_stake_of_key(key)
        if amount > effective:
            raise GatewayOverdrawn(key, amount, effective)
        stake = self._stakes[key]
        self._stakes[key] = replace(stake, amount=stake.amount - amount)
        self.ledger.token.move(self.address, to, amount)

    def _stake(self, tx: Tx, identifier: str, amount: int) -> None:
        key, _ = self.ledger.gateways.mine(tx, identifier)
        if not amount:
            raise ZeroAmount()
        stake = self._stakes[key]
        if stake.wind_down_end:
            raise GatewayWindingDown(key)
        unlock = self.epoch(tx) + self.ledger.epochs.min_epochs_locked
        self._stakes[key] = replace(stake, amount=stake.amount + uint128(amount), unlock_epoch=unlock)
