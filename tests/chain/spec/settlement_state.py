"""What checkpoints and challenges share: their records, the parameters by epoch, the books of fees, and charging."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from chain.contract_errors import InvalidSignature, NoCheckpoint, NothingToClaim
from chain.primitives import ZERO_HASH, Address, Bytes32, share_of
from chain.vouchers import Domain, Message, digest, is_signed_by
from tests.chain.spec.base import Part, Tx, at_epoch, call, check_bounds, with_change
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger


@dataclass(frozen=True, slots=True)
class Parameters:
    """Basis points of fees (share, burn), of a fee (omission), of a stake (fraud) and of a penalty (challenger)."""

    gateway_share_bps: int = 1000
    burn_bps: int = 500
    omission_penalty_bps: int = 10_000
    fraud_penalty_bps: int = 5000
    challenger_bps: int = 1000
    jail_epochs: int = 16
    challenge_bond: int = 10**19


@dataclass(frozen=True, slots=True)
class Slot:
    """What one gateway commits to once: the work of one model in one epoch."""

    gateway: Bytes32
    model_id: int
    epoch: int


class CheckpointStatus(IntEnum):
    NONE = 0
    POSTED = 1
    VOIDED = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`barred_units`: units of leaves that nobody could open; they are no longer part of the total."""

    root: Bytes32 = ZERO_HASH
    total_units: int = 0
    proven_units: int = 0
    total_fees: int = 0
    barred_units: int = 0
    status: CheckpointStatus = CheckpointStatus.NONE


@dataclass(frozen=True, slots=True)
class ModelEpoch:
    """Sums over the valid checkpoints of one model and epoch."""

    units: int = 0
    fees: int = 0
    shares: int = 0
    checkpoints: int = 0
    open_challenges: int = 0
    finalized: bool = False


class ChallengeKind(IntEnum):
    OMISSION = 0
    UNSUPPORTED_LEAF = 1


class ChallengeStatus(IntEnum):
    NONE = 0
    OPEN = 1
    ANSWERED = 2
    UPHELD = 3


@dataclass(frozen=True, slots=True)
class Challenge:
    """`held`: what it reserves of the gateway's stake. `answer_by`: the last epoch in which an answer counts."""

    kind: ChallengeKind
    status: ChallengeStatus
    epoch: int
    answer_by: int
    challenger: Address
    gateway: Bytes32
    provider: Bytes32
    model_id: int
    units: int
    bond: int
    held: int

    @property
    def slot(self) -> Slot:
        return Slot(self.gateway, self.model_id, self.epoch)


class Offence(IntEnum):
    OMISSION = 0
    SUM_MISMATCH = 1
    UNSUPPORTED_LEAF = 2
    EQUIVOCATION = 3
    OVERDRAW = 4


class SettlementState(Part):
    """Nothing here is called from outside but parameters and payments."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address, chain_id: int) -> None:
        super().__init__(ledger, address, owner)
        journal = ledger.journal
        self.domain = Domain(chain_id, address)
        self._parameters: Cell[tuple[tuple[int, Parameters], ...]] = Cell(journal, ((0, Parameters()),))
        self._checkpoints: Table[Slot, Checkpoint] = Table(journal, Checkpoint())
        self._model_epochs: Table[tuple[int, int], ModelEpoch] = Table(journal, ModelEpoch())
        self._posters: Table[tuple[int, int], tuple[Bytes32, ...]] = Table(journal, ())
        self._barred: Table[Bytes32, bool] = Table(journal, False)
        self._proven: Table[tuple[Bytes32, Bytes32, int], bool] = Table(journal, False)
        self._shares: Table[tuple[Bytes32, int], int] = Table(journal, 0)
        self._weights: Table[int, int] = Table(journal, 0)
        self._sealed: Table[int, bool] = Table(journal, False)
        self._royalties: Table[int, int] = Table(journal, 0)
        self._payments: Table[Address, int] = Table(journal, 0)
        self._challenges: Cell[tuple[Challenge, ...]] = Cell(journal, ())
        self._challenged: Table[Bytes32 | tuple[Bytes32, Bytes32, int], bool] = Table(journal, False)
        self._penalized: Table[tuple[Slot, Offence], bool] = Table(journal, False)
        self._open_challenges: Table[Bytes32, int] = Table(journal, 0)
        self._compensated: Table[tuple[Bytes32, Bytes32, int], int] = Table(journal, 0)

    def parameters_at(self, epoch: int) -> Parameters:
        return at_epoch(self._parameters.value, epoch, Parameters())

    def parameters(self, block: int) -> Parameters:
        """Those in force now."""
        return self.parameters_at(self.ledger.epochs.current_epoch(block))

    def checkpoint(self, gateway: Bytes32, model_id: int, epoch: int) -> Checkpoint:
        return self._checkpoints[Slot(gateway, model_id, epoch)]

    def model_epoch(self, model_id: int, epoch: int) -> ModelEpoch:
        return self._model_epochs[model_id, epoch]

    def posters_of(self, model_id: int, epoch: int) -> tuple[Bytes32, ...]:
        """Gateways with a checkpoint, in order of posting."""
        return self._posters[model_id, epoch]

    def emission_weight(self, epoch: int) -> int:
        """Sum over models of what the epoch's fees burn."""
        return self._weights[epoch]

    def gateway_share(self, gateway: Bytes32, epoch: int) -> int:
        return self._shares[gateway, epoch]

    def is_sealed(self, epoch: int) -> bool:
        return self._sealed[epoch]

    def royalty_of(self, model_id: int) -> int:
        return self._royalties[model_id]

    def payments_of(self, account: Address) -> int:
        return self._payments[account]

    def challenges(self) -> tuple[Challenge, ...]:
        return self._challenges.value

    def open_challenges_of(self, gateway: Bytes32) -> int:
        return self._open_challenges[gateway]

    def is_proven(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> bool:
        return self._proven[gateway, provider, epoch]

    def compensated_units(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> int:
        return self._compensated[gateway, provider, epoch]

    def owed(self) -> int:
        """All that this contract must hold: fees not finalised, shares, royalties, payments and open bonds."""
        waiting = sum(sums.fees - sums.shares for _, sums in self._model_epochs.items() if not sums.finalized)
        shares = sum(share for _, share in self._shares.items())
        royalties = sum(royalty for _, royalty in self._royalties.items())
        payments = sum(payment for _, payment in self._payments.items())
        bonds = sum(c.bond for c in self.challenges() if c.status is ChallengeStatus.OPEN)
        return waiting + shares + royalties + payments + bonds

    @call
    def set_parameters(
        self,
        tx: Tx,
        gateway_share_bps: int,
        burn_bps: int,
        omission_penalty_bps: int,
        fraud_penalty_bps: int,
        challenger_bps: int,
        jail_epochs: int,
        challenge_bond: int,
    ) -> None:
        """From the next epoch on, so that all checkpoints of an epoch are split alike."""
        self.only_owner(tx)
        check_bounds(gateway_share_bps, 0, 2000)
        check_bounds(burn_bps, 100, 2000)
        check_bounds(omission_penalty_bps, 5000, 20_000)
        check_bounds(fraud_penalty_bps, 1000, 10_000)
        check_bounds(challenger_bps, 0, 5000)
        check_bounds(jail_epochs, self.ledger.epochs.epoch_reward_delay, 1000)
        check_bounds(challenge_bond, 1, 10**24)
        new = Parameters(
            gateway_share_bps,
            burn_bps,
            omission_penalty_bps,
            fraud_penalty_bps,
            challenger_bps,
            jail_epochs,
            challenge_bond,
        )
        self._parameters.value = with_change(self._parameters.value, self.epoch(tx) + 1, new)

    @call
    def withdraw_payments(self, tx: Tx) -> int:
        """Wei that challenges have credited to the caller."""
        amount = self._payments[tx.sender]
        if not amount:
            raise NothingToClaim()
        self._payments[tx.sender] = 0
        self.ledger.token.move(self.address, tx.sender, amount)
        return amount

    def posted(self, slot: Slot) -> Checkpoint:
        found = self._checkpoints[slot]
        if found.status is not CheckpointStatus.POSTED:
            raise NoCheckpoint(slot.gateway, slot.model_id, slot.epoch)
        return found

    def require_signature(self, message: Message, signature: bytes, signer: Address) -> None:
        """Plain ECDSA, never ERC-1271: a contract could take back what it signed."""
        if not is_signed_by(digest(self.domain, message), signature, signer):
            raise InvalidSignature()

    def cover(self, gateway: Bytes32) -> int:
        """`avail` in the rules: escrow credit and effective stake."""
        return self.ledger.escrow.credit_of(gateway) + self.ledger.gateway_staking.effective_stake_of_key(gateway)

    def charge(self, gateway: Bytes32, amount: int) -> None:
        """Credit first, then stake."""
        taken = self.ledger.escrow.spend_credit(gateway, amount, self.address)
        self.ledger.gateway_staking.charge(gateway, amount - taken, self.address)

    def book(self, slot: Slot, units: int, fees: int, sign: int) -> None:
        """Adds (`sign` 1) a checkpoint to, or takes it (−1) from, the sums that everything is computed from."""
        key = slot.model_id, slot.epoch
        p = self.parameters_at(slot.epoch + 1)
        sums = self._model_epochs[key]
        share = share_of(fees, p.gateway_share_bps)
        new = replace(
            sums,
            units=sums.units + sign * units,
            fees=sums.fees + sign * fees,
            shares=sums.shares + sign * share,
            checkpoints=sums.checkpoints + sign,
        )
        self._model_epochs[key] = new
        self._shares[slot.gateway, slot.epoch] += sign * share
        self._weights[slot.epoch] += share_of(new.fees, p.burn_bps) - share_of(sums.fees, p.burn_bps)
