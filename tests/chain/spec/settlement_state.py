"""What checkpoints and challenges share: their records, the parameters by epoch, the books of fees and of omissions."""

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
    """Basis points of fees (share, burn), of a fee (omission, bond), of a stake (fraud), of a penalty (challenger)."""

    gateway_share_bps: int = 1000
    burn_bps: int = 500
    omission_penalty_bps: int = 10_000
    fraud_penalty_bps: int = 5000
    challenger_bps: int = 1000
    jail_epochs: int = 16
    bond_bps: int = 1000


@dataclass(frozen=True, slots=True)
class Slot:
    """What one gateway commits to once: the work of one model in one epoch."""

    gateway: Bytes32
    model_id: int
    epoch: int


class CheckpointStatus(IntEnum):
    NONE = 0
    POSTED = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root and the total of a sum tree. Once posted it is final."""

    root: Bytes32 = ZERO_HASH
    total_units: int = 0
    total_fees: int = 0
    status: CheckpointStatus = CheckpointStatus.NONE


@dataclass(frozen=True, slots=True)
class ModelEpoch:
    """Sums over the checkpoints of one model and epoch."""

    units: int = 0
    fees: int = 0
    shares: int = 0
    checkpoints: int = 0
    finalized: bool = False


class ChallengeStatus(IntEnum):
    NONE = 0
    OPEN = 1
    ANSWERED = 2
    UPHELD = 3


@dataclass(frozen=True, slots=True)
class Challenge:
    """`held`: what it holds of the line. `answer_by`: the last epoch in which an answer counts."""

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
    EQUIVOCATION = 1


Work = tuple[Bytes32, Bytes32, int]
"""What a voucher is about: gateway, provider and epoch (a provider has one model)."""


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
        self._proven: Table[Work, int] = Table(journal, 0)
        self._shares: Table[tuple[Bytes32, int], int] = Table(journal, 0)
        self._weights: Table[int, int] = Table(journal, 0)
        self._royalties: Table[int, int] = Table(journal, 0)
        self._payments: Table[Address, int] = Table(journal, 0)
        self._challenges: Cell[tuple[Challenge, ...]] = Cell(journal, ())
        self._penalized: Table[Slot, bool] = Table(journal, False)
        self._shown: Table[Work, int] = Table(journal, 0)
        self._challenged: Table[Work, int] = Table(journal, 0)
        self._compensated: Table[Work, int] = Table(journal, 0)
        self._debt_units: Table[Work, int] = Table(journal, 0)
        self._debts: Table[Bytes32, int] = Table(journal, 0)

    def parameters_at(self, epoch: int) -> Parameters:
        return at_epoch(self._parameters.value, epoch, Parameters())

    def parameters(self, block: int) -> Parameters:
        """Those in force now."""
        return self.parameters_at(self.ledger.epochs.current_epoch(block))

    def checkpoint(self, gateway: Bytes32, model_id: int, epoch: int) -> Checkpoint:
        return self._checkpoints[Slot(gateway, model_id, epoch)]

    def model_epoch(self, model_id: int, epoch: int) -> ModelEpoch:
        return self._model_epochs[model_id, epoch]

    def model_epochs(self) -> dict[tuple[int, int], ModelEpoch]:
        """By model and epoch."""
        return dict(self._model_epochs.items())

    def posters_of(self, model_id: int, epoch: int) -> tuple[Bytes32, ...]:
        """Gateways with a checkpoint, in order of posting."""
        return self._posters[model_id, epoch]

    def emission_weight(self, epoch: int) -> int:
        """Sum over models of half of what the epoch's fees burn."""
        return self._weights[epoch]

    def gateway_share(self, gateway: Bytes32, epoch: int) -> int:
        return self._shares[gateway, epoch]

    def royalty_of(self, model_id: int) -> int:
        return self._royalties[model_id]

    def payments_of(self, account: Address) -> int:
        return self._payments[account]

    def challenges(self) -> tuple[Challenge, ...]:
        return self._challenges.value

    def proven_units(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> int:
        """Units of the largest leaf that was proven and earns."""
        return self._proven[gateway, provider, epoch]

    def all_proven_units(self) -> dict[Work, int]:
        return dict(self._proven.items())

    def shown_units(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> int:
        """Units of the leaf that a challenge or an answer has shown."""
        return self._shown[gateway, provider, epoch]

    def challenged_units(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> int:
        """The most that an interactive challenge was about."""
        return self._challenged[gateway, provider, epoch]

    def compensated_units(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> int:
        return self._compensated[gateway, provider, epoch]

    def known_units(self, work: Work) -> int:
        """What a gateway has paid for or will."""
        return self._shown[work] + self._compensated[work]

    def debt_units(self, gateway: Bytes32, provider: Bytes32, epoch: int) -> int:
        """Units that should have been compensated and were not, for lack of money."""
        return self._debt_units[gateway, provider, epoch]

    def all_debt_units(self) -> dict[Work, int]:
        return dict(self._debt_units.items())

    def debt_of(self, gateway: Bytes32) -> int:
        """Wei that the gateway's debt units cost together."""
        return self._debts[gateway]

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
        bond_bps: int,
    ) -> None:
        """From the next epoch on, so that all checkpoints of an epoch are split alike."""
        self.only_owner(tx)
        check_bounds(gateway_share_bps, 0, 2000)
        check_bounds(burn_bps, 100, 2000)
        check_bounds(omission_penalty_bps, 5000, 20_000)
        check_bounds(fraud_penalty_bps, 1000, 10_000)
        check_bounds(challenger_bps, 0, 5000)
        check_bounds(jail_epochs, self.ledger.epochs.epoch_reward_delay, 1000)
        check_bounds(bond_bps, 100, 5000)
        new = Parameters(
            gateway_share_bps,
            burn_bps,
            omission_penalty_bps,
            fraud_penalty_bps,
            challenger_bps,
            jail_epochs,
            bond_bps,
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

    def charge(self, gateway: Bytes32, amount: int) -> None:
        """Credit first, then stake."""
        taken = self.ledger.escrow.spend_credit(gateway, amount, self.address)
        self.ledger.gateway_staking.charge(gateway, amount - taken, self.address)

    def weight(self, fees: int, epoch: int) -> int:
        """Half of what a model's fees of an epoch burn: the most that may be emitted for them."""
        return share_of(fees, self.parameters_at(epoch + 1).burn_bps) // 2

    def book(self, slot: Slot, units: int, fees: int) -> None:
        """Adds a checkpoint to the sums that everything is computed from."""
        key = slot.model_id, slot.epoch
        sums = self._model_epochs[key]
        share = share_of(fees, self.parameters_at(slot.epoch + 1).gateway_share_bps)
        new = replace(
            sums,
            units=sums.units + units,
            fees=sums.fees + fees,
            shares=sums.shares + share,
            checkpoints=sums.checkpoints + 1,
        )
        self._model_epochs[key] = new
        self._shares[slot.gateway, slot.epoch] += share
        self._weights[slot.epoch] += self.weight(new.fees, slot.epoch) - self.weight(sums.fees, slot.epoch)
