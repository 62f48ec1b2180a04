"""The rules of the first release that could be robbed, one by one, as changes of the specification and of the software.

Each entry is what an attack needed. The search must find every one of them, and nothing without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from chain.contract_errors import (
    AlreadyFinalized,
    AlreadyProven,
    ChallengeWindowClosed,
    NoCheckpoint,
    NothingDue,
    Unauthorized,
)
from chain.primitives import Address, Bytes32
from chain.vouchers import ContributionVoucher, PaymentVoucher
from tests.chain.spec import Tx
from tests.chain.spec.base import call
from tests.chain.spec.escrow import Escrow, Held
from tests.chain.spec.gateway_staking import GatewayStaking
from tests.chain.spec.lines import Line
from tests.chain.spec.models import ModelRegistry
from tests.chain.spec.settlement import Settlement
from tests.chain.spec.settlement_state import Challenge, ChallengeStatus, Checkpoint, Slot
from tests.profit.game import Game
from tests.profit.rules import Rules
from tests.profit.world import PRICE, World

Patch: TypeAlias = Callable[[World], None]
FIXED_BOND: Final = 1_000 * PRICE


class SharedEscrow(Escrow):
    """One deposit stands behind the vouchers to every gateway, and credit leaves at once."""

    def available(self, payer: Address, gateway: Bytes32) -> int:
        return sum(held.amount - held.thawing for (who, _), held in self._reservations.items() if who == payer)

    def _check(self, tx: Tx, voucher: PaymentVoucher, signature: bytes) -> None:
        staking = self.ledger.gateway_staking
        kept = staking.stake_of_key
        staking.stake_of_key = lambda key: replace(kept(key), amount=1)  # type: ignore[method-assign]
        try:
            super()._check(tx, voucher, signature)
        finally:
            del staking.stake_of_key  # type: ignore[method-assign]

    @call
    def redeem(self, tx: Tx, voucher: PaymentVoucher, signature: bytes) -> int:
        self._check(tx, voucher, signature)
        if self._due(voucher) <= 0:
            raise NothingDue("", voucher.gateway)
        return self._redeem(voucher)

    def _redeem(self, voucher: PaymentVoucher) -> int:
        due, paid = max(self._due(voucher), 0), 0
        for place, held in list(self._reservations.items()):
            if place[0] == voucher.payer:
                taken = min(due - paid, held.amount)
                self._reservations[place] = held.charge(taken)
                paid += taken
        self._redeemed[voucher.payer, voucher.gateway] += paid
        self._add_credit(voucher.gateway, paid)
        return paid

    @call
    def withdraw_credit(self, tx: Tx, gateway_id: str) -> int:
        key, _ = self.ledger.gateways.mine(tx, gateway_id)
        amount = self._credits[key].amount
        self._credits[key] = Held()
        self.ledger.token.move(self.address, tx.sender, amount)
        return amount


class ForgetfulSettlement(Settlement):
    """What could not be compensated at once is never owed."""

    def _owe(self, slot: Slot, provider: Bytes32, units: int) -> None:
        pass


class HoldingStaking(GatewayStaking):
    """Challenges hold the stake itself: whatever they are about, it is out of reach of everybody else's."""

    def hold_line(self, gateway: Bytes32, provider: Bytes32, amount: int) -> int:
        held = self.effective_stake_of_key(gateway)
        stake = self._stakes[gateway]
        self._stakes[gateway] = replace(stake, reserved=stake.reserved + held)
        line = self._lines[gateway, provider]
        self._lines[gateway, provider] = Line(line.amount + held, line.thawing, line.thaw_end, line.held + held)
        return held


class VoidableSettlement(Settlement):
    """A checkpoint can be voided as long as its epoch is not claimable; omissions close at the same time."""

    @call
    def void(self, tx: Tx, gateway_id: str, model_id: int, epoch: int) -> None:
        key, _ = self.ledger.gateways.mine(tx, gateway_id)
        if self.epoch(tx) >= epoch + self.ledger.epochs.epoch_reward_delay:
            raise ChallengeWindowClosed(epoch)
        slot = Slot(key, model_id, epoch)
        posted = self.posted(slot)
        sums = self._model_epochs[model_id, epoch]
        share = posted.total_fees * self.parameters_at(epoch + 1).gateway_share_bps // 10_000
        self._model_epochs[model_id, epoch] = replace(
            sums,
            units=sums.units - posted.total_units,
            fees=sums.fees - posted.total_fees,
            shares=sums.shares - share,
            checkpoints=sums.checkpoints - 1,
        )
        self._shares[key, epoch] -= share
        self._weights[epoch] += self.weight(sums.fees - posted.total_fees, epoch) - self.weight(sums.fees, epoch)
        self._checkpoints[slot] = Checkpoint()
        self.ledger.token.move(self.address, self.ledger.escrow.address, posted.total_fees)
        self.ledger.escrow._add_credit(key, posted.total_fees)

    def _require_window(self, tx: Tx, epoch: int, before: int = 0) -> int:
        return super()._require_window(tx, epoch, before + 1)


class FreezingSettlement(Settlement):
    """A challenge of any leaf costs a small bond, and its model and epoch wait until it is resolved."""

    frozen: frozenset[tuple[int, int]] = frozenset()

    @call
    def freeze(self, tx: Tx, model_id: int, epoch: int) -> None:
        if not self._posters[model_id, epoch]:
            raise NoCheckpoint(b"", model_id, epoch)
        self.ledger.token.pull(self.address, tx.sender, self.address, PRICE)
        self.ledger.token.destroy(self.address, PRICE)
        self.frozen = self.frozen | {(model_id, epoch)}

    def _finalize(self, model_id: int, epoch: int) -> None:
        if (model_id, epoch) in self.frozen:
            raise AlreadyFinalized(model_id, epoch)
        super()._finalize(model_id, epoch)


class OverdrawSettlement(Settlement):
    """In the running epoch already, vouchers beyond credit and stake jail; and who is jailed cannot post."""

    @call
    def overdraw(self, tx: Tx, voucher: ContributionVoucher, signature: bytes) -> None:
        slot = self._require_voucher(voucher, signature)
        cover = self.ledger.escrow.credit_of(slot.gateway) + self.ledger.gateway_staking.effective_stake_of_key(
            slot.gateway
        )
        if self._fee(slot, voucher.cumulative_units) > cover:
            self.ledger.slashing.jail_gateway(slot.gateway, self.epoch(tx) + 16)

    @call
    def post_checkpoint(self, tx: Tx, *arguments: Any) -> None:
        gateway = self.ledger.gateways.gateway_of_signer(tx.sender)
        if self.ledger.slashing.is_gateway_jailed(gateway, tx.block):
            raise Unauthorized("")
        super().post_checkpoint(tx, *arguments)


class OnceSettlement(Settlement):
    """A provider proves one leaf of a checkpoint, whichever is first."""

    def _record(self, slot: Slot, provider: Bytes32, units: int) -> None:
        if self.proven_units(slot.gateway, provider, slot.epoch):
            raise AlreadyProven(provider, slot.gateway, slot.epoch)
        super()._record(slot, provider, units)


class BondedSettlement(Settlement):
    """Every challenge takes the same bond, and a gateway that answers gets it."""

    @call
    def open_omission_challenge(self, tx: Tx, voucher: ContributionVoucher, signature: bytes) -> int:
        number: int = super().open_omission_challenge(tx, voucher, signature)
        self.ledger.token.pull(self.address, tx.sender, self.address, FIXED_BOND)
        return number

    def _end(self, number: int, challenge: Challenge, status: ChallengeStatus) -> None:
        super()._end(number, challenge, status)
        owner = self.ledger.gateways.owner_of(challenge.gateway)
        self._payments[owner if status is ChallengeStatus.ANSWERED else challenge.challenger] += FIXED_BOND


class HastyModels(ModelRegistry):
    """A price counts from the next epoch on."""

    @call
    def update_price(self, tx: Tx, model_id: int, price_per_token: int) -> None:
        super().update_price(
            Tx(tx.sender, max(5, tx.block - self.ledger.epochs.epoch_length(tx.block))), model_id, price_per_token
        )


class GenerousSettlement(Settlement):
    """All that traffic burns may be emitted again: use and rank cost nothing."""

    def weight(self, fees: int, epoch: int) -> int:
        return fees * self.parameters_at(epoch + 1).burn_bps // 10_000


def become(part: str, kind: type) -> Patch:
    """A change that gives a part of the ledger other rules."""

    def change(world: World) -> None:
        getattr(world.ledger, part).__class__ = kind

    return change


@dataclass(frozen=True, slots=True)
class OldRule:
    """What the first release did, as far as one attack needs it."""

    software: Rules = field(default_factory=Rules)
    chain: tuple[Patch, ...] = ()

    def game(self) -> Game:
        return Game(self.software, self.chain)

    @property
    def mixed(self) -> bool:
        """Whether it changes both, so that its software alone may lose money."""
        return self.software != Rules() and bool(self.chain)

    def without(self) -> Game:
        """The same software on the chain of today: what the other part adds is more than this loses."""
        return Game(self.software)


OLD_RULES: Final[dict[str, OldRule]] = {
    "shared-deposit": OldRule(chain=(become("escrow", SharedEscrow),)),
    "blind-collector": OldRule(Rules(blind_collector=True)),
    "late-vouchers-owe-nothing": OldRule(Rules(blind_collector=True), (become("settlement", ForgetfulSettlement),)),
    "stake-behind-everything": OldRule(Rules(blind_collector=True), (become("gateway_staking", HoldingStaking),)),
    "voidable-checkpoint": OldRule(chain=(become("settlement", VoidableSettlement),)),
    "frozen-claims": OldRule(chain=(become("settlement", FreezingSettlement),)),
    "two-leaves-one-proof": OldRule(chain=(become("settlement", OnceSettlement),)),
    "overdraw-in-running-epoch": OldRule(chain=(become("settlement", OverdrawSettlement),)),
    "fixed-bond-to-gateway": OldRule(chain=(become("settlement", BondedSettlement),)),
    "next-epoch-receipt": OldRule(Rules(next_epoch_receipt=True), (become("models", HastyModels),)),
    "grace-after-restart": OldRule(Rules(grace=True)),
    "old-signer-served": OldRule(Rules(stale_facts=True)),
    "failed-answers-are-free": OldRule(Rules(failed_is_free=True)),
    "tariff-of-the-request": OldRule(Rules(request_tariff=True), (become("models", HastyModels),)),
    "emission-equals-burn": OldRule(chain=(become("settlement", GenerousSettlement),)),
}
NEW_RULES: Final = partial(Game)
