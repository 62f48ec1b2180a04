"""Lines: parts of a gateway's stake that only one provider's compensations can take."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    GatewayWindingDown,
    InsufficientBalance,
    InsufficientStake,
    LengthMismatch,
    LineHeld,
    NothingThawing,
    StillThawing,
    ZeroAmount,
)
from chain.primitives import Address, Bytes32, checksummed, key_of
from tests.chain.spec.base import Stoppable, Tx, call, uint128
from tests.chain.spec.journal import Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

THAW: Final = 2
"""Epochs that a line thaws beyond the reward delay: a voucher of epoch e can be enforced through e + d, and its
provider may learn of a thaw one epoch late."""


@dataclass(frozen=True, slots=True)
class GatewayStake:
    """`reserved`: the sum of its lines. `wind_down_end`: 0, or the first epoch in which it may be unstaked."""

    amount: int = 0
    reserved: int = 0
    unlock_epoch: int = 0
    wind_down_end: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """Wei that one provider can count on: `thawing` of them from `thaw_end` on no more, `held` by open challenges."""

    amount: int = 0
    thawing: int = 0
    thaw_end: int = 0
    held: int = 0


class Lines(Stoppable):
    """The stakes of gateways and the lines that they are partly reserved for."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address) -> None:
        super().__init__(ledger, address, owner)
        self._stakes: Table[Bytes32, GatewayStake] = Table(ledger.journal, GatewayStake())
        self._lines: Table[tuple[Bytes32, Bytes32], Line] = Table(ledger.journal, Line())

    @property
    @abstractmethod
    def min_gateway_stake(self) -> int:
        """Wei of effective stake that lines must leave."""

    def stake_of_key(self, key: Bytes32) -> GatewayStake:
        return self._stakes[key]

    def stakes(self) -> dict[Bytes32, GatewayStake]:
        return dict(self._stakes.items())

    def effective_stake_of_key(self, key: Bytes32) -> int:
        stake = self._stakes[key]
        return stake.amount - stake.reserved

    def spare_stake(self, key: Bytes32) -> int:
        """What fees and new lines may take: the effective stake above the minimum."""
        return max(0, self.effective_stake_of_key(key) - self.min_gateway_stake)

    def line_of(self, gateway: Bytes32, provider: Bytes32) -> Line:
        return self._lines[gateway, provider]

    def lines(self) -> dict[tuple[Bytes32, Bytes32], Line]:
        """By gateway and provider."""
        return dict(self._lines.items())

    def guaranteed(self, gateway: Bytes32, provider: Bytes32) -> int:
        """What work from now on may count on."""
        line = self._lines[gateway, provider]
        return line.amount - line.thawing

    @call
    def fund_lines(self, tx: Tx, identifier: str, provider_ids: Sequence[str], amounts: Sequence[int]) -> None:
        """Reserves spare stake for providers, all or none."""
        self.not_paused()
        key, _ = self.ledger.gateways.mine(tx, identifier)
        if len(provider_ids) != len(amounts):
            raise LengthMismatch()
        for provider, amount in zip(provider_ids, amounts, strict=True):
            if not amount:
                raise ZeroAmount()
            self.ledger.providers.known(key_of(provider))
        total, spare, stake = sum(amounts), self.spare_stake(key), self._stakes[key]
        if total > spare:
            raise InsufficientStake(total, spare)
        if stake.wind_down_end:
            raise GatewayWindingDown(key)
        for provider, amount in zip(provider_ids, amounts, strict=True):
            line = self._lines[key, key_of(provider)]
            self._lines[key, key_of(provider)] = replace(line, amount=line.amount + uint128(amount))
        self._stakes[key] = replace(stake, reserved=stake.reserved + total)

    @call
    def thaw_line(self, tx: Tx, identifier: str, provider_id: str, amount: int) -> None:
        """Announces that `amount` more will be taken back; the clock restarts for all that thaws."""
        key, _ = self.ledger.gateways.mine(tx, identifier)
        if not amount:
            raise ZeroAmount()
        place = key, key_of(provider_id)
        line, guaranteed = self._lines[place], self.guaranteed(*place)
        if amount > guaranteed:
            raise InsufficientBalance(amount, guaranteed)
        end = self.epoch(tx) + self.ledger.epochs.epoch_reward_delay + THAW
        self._lines[place] = replace(line, thawing=line.thawing + amount, thaw_end=end)

    @call
    def release_line(self, tx: Tx, identifier: str, provider_id: str) -> int:
        """Wei that have thawed and are not held, which are effective stake again."""
        key, _ = self.ledger.gateways.mine(tx, identifier)
        place = key, key_of(provider_id)
        line = self._lines[place]
        if not line.thawing:
            raise NothingThawing(checksummed(tx.sender))
        if self.epoch(tx) < line.thaw_end:
            raise StillThawing(line.thaw_end)
        released = min(line.thawing, line.amount - line.held)
        if not released:
            raise LineHeld(*place)
        thawing = line.thawing - released
        self._lines[place] = Line(line.amount - released, thawing, line.thaw_end if thawing else 0, line.held)
        self._stakes[key] = replace(self._stakes[key], reserved=self._stakes[key].reserved - released)
        return released

    # --- what settlement uses ---

    def hold_line(self, gateway: Bytes32, provider: Bytes32, amount: int) -> int:
        """Keeps up to `amount` of a line from being released; returns how much."""
        line = self._lines[gateway, provider]
        held = min(amount, line.amount - line.held)
        self._lines[gateway, provider] = replace(line, held=line.held + held)
        return held

    def end_hold(self, gateway: Bytes32, provider: Bytes32, amount: int) -> None:
        """Ends a hold, as far as no charge has taken what it held."""
        line = self._lines[gateway, provider]
        self._lines[gateway, provider] = replace(line, held=line.held - min(amount, line.held))

    def charge_line(self, gateway: Bytes32, provider: Bytes32, amount: int, to: Address) -> int:
        """Moves up to `amount` of a line to `to`; returns what was taken."""
        line, stake = self._lines[gateway, provider], self._stakes[gateway]
        taken = min(amount, line.amount)
        left = line.amount - taken
        changed = replace(line, amount=left, thawing=min(line.thawing, left), held=min(line.held, left))
        self._lines[gateway, provider] = changed
        self._stakes[gateway] = replace(stake, amount=stake.amount - taken, reserved=stake.reserved - taken)
        self.ledger.token.move(self.address, to, taken)
        return taken
