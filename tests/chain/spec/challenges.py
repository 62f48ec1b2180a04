"""The disputes that the chain decides by itself: omission, unsupported leaf, wrong sum, equivocation, overdraw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from chain import merkle
from chain.contract_errors import (
    AlreadyChallenged,
    AlreadyPenalized,
    AnswerWindowClosed,
    AnswerWindowOpen,
    ChallengeNotOpen,
    ChallengeWindowClosed,
    ChallengeWindowNotOpen,
    CheckpointExists,
    InsufficientCover,
    InvalidProof,
    LeavesNotSorted,
    LengthMismatch,
    NotEquivocation,
    NothingMissing,
    NotOverdrawn,
    SumIsRight,
    UnknownChallenge,
    WrongModel,
    ZeroAmount,
)
from chain.merkle import Leaf
from chain.primitives import MAX_UINT96, Address, Bytes32, share_of
from chain.vouchers import CheckpointCommitment, ContributionReceipt, ContributionVoucher
from tests.chain.spec.base import Tx, call, check_bounds
from tests.chain.spec.settlement_state import (
    Challenge,
    ChallengeKind,
    ChallengeStatus,
    Checkpoint,
    CheckpointStatus,
    Offence,
    SettlementState,
    Slot,
)


class Challenges(SettlementState):
    """Windows, with d the reward delay: immediate challenges of epoch e through e + d − 1, interactive ones opened
    through e + d − 2 and answered through e + d − 1."""

    @call
    def challenge_omission(
        self, tx: Tx, voucher: ContributionVoucher, signature: bytes, leaf_units: int, proof: Sequence[Bytes32]
    ) -> None:
        """A voucher above the leaf shown, or without a valid checkpoint (0 units, no proof)."""
        current = self._require_window(tx, voucher.epoch, 1)
        self._require_voucher(voucher, signature)
        slot = _slot(voucher)
        checkpoint = self._checkpoints[slot]
        if checkpoint.status is CheckpointStatus.POSTED:
            if not merkle.verify(checkpoint.root, _leaf(slot, Leaf(voucher.provider, leaf_units)), proof):
                raise InvalidProof()
        else:
            if checkpoint.status is CheckpointStatus.NONE and current <= voucher.epoch + 1:
                raise ChallengeWindowNotOpen(voucher.epoch)
            if leaf_units or proof:
                raise InvalidProof()
        known = leaf_units + self._compensated[voucher.gateway, voucher.provider, voucher.epoch]
        missing = voucher.cumulative_units - known
        if missing <= 0:
            raise NothingMissing()
        if not self._compensate(tx, slot, voucher.provider, missing, tx.sender):
            fee = self.ledger.models.fee_for(slot.model_id, slot.epoch, missing)
            raise InsufficientCover(fee, self.cover(slot.gateway))

    @call
    def open_omission_challenge(self, tx: Tx, voucher: ContributionVoucher, signature: bytes) -> int:
        """A voucher whose leaf nobody can find; returns the challenge's number."""
        self._require_window(tx, voucher.epoch, 2)
        self._require_voucher(voucher, signature)
        slot = _slot(voucher)
        self.posted(slot)
        subject = (voucher.gateway, voucher.provider, voucher.epoch)
        if self._challenged[subject]:
            raise AlreadyChallenged()
        missing = voucher.cumulative_units - self._compensated[subject]
        if missing <= 0:
            raise NothingMissing()
        self._challenged[subject] = True
        fee = self.ledger.models.fee_for(slot.model_id, slot.epoch, missing)
        wanted = fee + share_of(fee, self.parameters(tx.block).omission_penalty_bps)
        return self._open(tx, ChallengeKind.OMISSION, slot, Leaf(voucher.provider, voucher.cumulative_units), wanted)

    @call
    def answer_omission(self, tx: Tx, challenge_id: int, units: int, proof: Sequence[Bytes32]) -> None:
        """Shows a leaf of at least the challenged units."""
        challenge = self._answerable(tx, challenge_id, ChallengeKind.OMISSION)
        root = self.posted(challenge.slot).root
        leaf = _leaf(challenge.slot, Leaf(challenge.provider, units))
        if units < challenge.units or not merkle.verify(root, leaf, proof):
            raise InvalidProof()
        self._challenged[challenge.gateway, challenge.provider, challenge.epoch] = False
        self._answered(challenge_id, challenge)

    @call
    def open_leaf_challenge(
        self, tx: Tx, gateway: Bytes32, model_id: int, epoch: int, leaf: Leaf, proof: Sequence[Bytes32]
    ) -> int:
        """A leaf that its provider never acknowledged; returns the challenge's number."""
        slot = Slot(gateway, model_id, epoch)
        self._require_window(tx, epoch, 2)
        checkpoint = self.posted(slot)
        if not leaf.units:
            raise ZeroAmount()
        subject = _leaf(slot, leaf)
        if not merkle.verify(checkpoint.root, subject, proof):
            raise InvalidProof()
        if self._challenged[subject]:
            raise AlreadyChallenged()
        self._challenged[subject] = True
        self._count_open(slot, 1)
        return self._open(tx, ChallengeKind.UNSUPPORTED_LEAF, slot, leaf, self._fraud_penalty(tx, gateway))

    @call
    def answer_leaf(self, tx: Tx, challenge_id: int, receipt_units: int, signature: bytes) -> None:
        """Opens the leaf with the provider's receipt over at least its units."""
        challenge = self._answerable(tx, challenge_id, ChallengeKind.UNSUPPORTED_LEAF)
        self.posted(challenge.slot)
        self._require_provider(challenge.provider, challenge.model_id)
        if receipt_units < challenge.units:
            raise InvalidProof()
        receipt = ContributionReceipt(
            challenge.gateway, challenge.provider, challenge.model_id, challenge.epoch, receipt_units
        )
        signer = self.ledger.providers.signer_at(challenge.provider, challenge.epoch)
        self.require_signature(receipt, signature, signer)
        self._count_open(challenge.slot, -1)
        self._answered(challenge_id, challenge)

    @call
    def resolve_challenge(self, tx: Tx, challenge_id: int) -> None:
        """Upholds a challenge that nobody answered in time."""
        challenge = self._open_challenge(challenge_id)
        if self.epoch(tx) <= challenge.answer_by:
            raise AnswerWindowOpen(challenge_id, challenge.answer_by)
        self._end(challenge_id, challenge, ChallengeStatus.UPHELD, challenge.challenger)
        slot = challenge.slot
        if challenge.kind is ChallengeKind.OMISSION:
            subject = (challenge.gateway, challenge.provider, challenge.epoch)
            self._challenged[subject] = False
            missing = challenge.units - self._compensated[subject]
            if missing > 0:
                self._compensate(tx, slot, challenge.provider, missing, challenge.challenger)
            return
        self._count_open(slot, -1)
        checkpoint = self._checkpoints[slot]
        if checkpoint.status is not CheckpointStatus.POSTED:
            return
        self._barred[_leaf(slot, Leaf(challenge.provider, challenge.units))] = True
        lost = min(challenge.units, checkpoint.total_units - checkpoint.barred_units)
        self._checkpoints[slot] = replace(checkpoint, barred_units=checkpoint.barred_units + lost)
        sums = self._model_epochs[slot.model_id, slot.epoch]
        self._model_epochs[slot.model_id, slot.epoch] = replace(sums, units=sums.units - lost)
        self._fraud(tx, slot, Offence.UNSUPPORTED_LEAF, challenge.challenger)

    @call
    def challenge_sum(self, tx: Tx, gateway: Bytes32, model_id: int, epoch: int, leaves: Sequence[Leaf]) -> None:
        """All leaves, in the tree's order, rebuild the root, but not the total."""
        slot = Slot(gateway, model_id, epoch)
        checkpoint = self._require_sum_challenge(tx, slot, leaves)
        if merkle.ordered_root([_leaf(slot, leaf) for leaf in leaves]) != checkpoint.root:
            raise InvalidProof()
        if sum(leaf.units for leaf in leaves) == checkpoint.total_units:
            raise SumIsRight()
        self._fraud(tx, slot, Offence.SUM_MISMATCH, tx.sender)
        self._void(slot, checkpoint)

    @call
    def challenge_sum_overflow(
        self,
        tx: Tx,
        gateway: Bytes32,
        model_id: int,
        epoch: int,
        leaves: Sequence[Leaf],
        proof: Sequence[Bytes32],
        flags: Sequence[bool],
    ) -> None:
        """Some leaves, ascending by hash, already exceed the total."""
        slot = Slot(gateway, model_id, epoch)
        checkpoint = self._require_sum_challenge(tx, slot, leaves)
        hashes = [_leaf(slot, leaf) for leaf in leaves]
        if any(a >= b for a, b in pairwise(hashes)):
            raise LeavesNotSorted()
        if not merkle.verify_multi(checkpoint.root, hashes, proof, flags):
            raise InvalidProof()
        if sum(leaf.units for leaf in leaves) <= checkpoint.total_units:
            raise SumIsRight()
        self._fraud(tx, slot, Offence.SUM_MISMATCH, tx.sender)
        self._void(slot, checkpoint)

    @call
    def challenge_equivocation(
        self, tx: Tx, a: CheckpointCommitment, signature_a: bytes, b: CheckpointCommitment, signature_b: bytes
    ) -> None:
        """Two different commitments for one slot, both signed by the gateway."""
        self._require_window(tx, a.epoch, 1)
        self.ledger.gateways.known(a.gateway)
        slot = Slot(a.gateway, a.model_id, a.epoch)
        if Slot(b.gateway, b.model_id, b.epoch) != slot or a == b:
            raise NotEquivocation()
        signer = self.ledger.gateways.signer_at(a.gateway, a.epoch)
        self.require_signature(a, signature_a, signer)
        self.require_signature(b, signature_b, signer)
        self._fraud_once(tx, slot, Offence.EQUIVOCATION)

    @call
    def challenge_posted(self, tx: Tx, commitment: CheckpointCommitment, signature: bytes) -> None:
        """A signed commitment that differs from what was posted."""
        self._require_window(tx, commitment.epoch, 1)
        self.ledger.gateways.known(commitment.gateway)
        slot = Slot(commitment.gateway, commitment.model_id, commitment.epoch)
        posted = self.posted(slot)
        promised = (commitment.root, commitment.total_units, commitment.total_fees)
        if promised == (posted.root, posted.total_units, posted.total_fees):
            raise NotEquivocation()
        signer = self.ledger.gateways.signer_at(slot.gateway, slot.epoch)
        self.require_signature(commitment, signature, signer)
        self._fraud_once(tx, slot, Offence.EQUIVOCATION)

    @call
    def challenge_overdraw(self, tx: Tx, vouchers: Sequence[ContributionVoucher], signatures: Sequence[bytes]) -> None:
        """Vouchers of one slot, ascending by provider, that cost more than the gateway has. Jail only."""
        if len(vouchers) != len(signatures):
            raise LengthMismatch()
        if not vouchers:
            raise ZeroAmount()
        slot = _slot(vouchers[0])
        current = self._require_window(tx, slot.epoch, 1)
        previous: Bytes32 | None = None
        for voucher, signature in zip(vouchers, signatures, strict=True):
            if previous is not None and (_slot(voucher) != slot or voucher.provider <= previous):
                raise LeavesNotSorted()
            previous = voucher.provider
            self._require_voucher(voucher, signature)
        if self._checkpoints[slot].status is not CheckpointStatus.NONE:
            raise CheckpointExists(slot.gateway, slot.model_id, slot.epoch)
        if self._penalized[slot, Offence.OVERDRAW]:
            raise AlreadyPenalized(slot.gateway, Offence.OVERDRAW)
        units = sum(voucher.cumulative_units for voucher in vouchers)
        owed, cover = self.ledger.models.fee_for(slot.model_id, slot.epoch, units), self.cover(slot.gateway)
        if owed <= cover:
            raise NotOverdrawn(owed, cover)
        self._penalized[slot, Offence.OVERDRAW] = True
        self.ledger.slashing.jail_gateway(slot.gateway, current + self.parameters_at(current).jail_epochs)

    # --- checks ---

    def _require_window(self, tx: Tx, epoch: int, before: int) -> int:
        current = self.epoch(tx)
        if epoch > current:
            raise ChallengeWindowNotOpen(epoch)
        if self._sealed[epoch] or current > epoch + self.ledger.epochs.epoch_reward_delay - before:
            raise ChallengeWindowClosed(epoch)
        return current

    def _require_voucher(self, voucher: ContributionVoucher, signature: bytes) -> None:
        check_bounds(voucher.cumulative_units, 1, MAX_UINT96)
        self.ledger.gateways.known(voucher.gateway)
        self._require_provider(voucher.provider, voucher.model_id)
        self.require_signature(voucher, signature, self.ledger.gateways.signer_at(voucher.gateway, voucher.epoch))

    def _require_provider(self, key: Bytes32, model_id: int) -> None:
        if self.ledger.providers.known(key).model_id != model_id:
            raise WrongModel(key, model_id)

    def _require_sum_challenge(self, tx: Tx, slot: Slot, leaves: Sequence[Leaf]) -> Checkpoint:
        self._require_window(tx, slot.epoch, 1)
        checkpoint = self.posted(slot)
        if not leaves:
            raise ZeroAmount()
        return checkpoint

    def _open_challenge(self, challenge_id: int) -> Challenge:
        if challenge_id >= len(self.challenges()):
            raise UnknownChallenge(challenge_id)
        challenge = self.challenges()[challenge_id]
        if challenge.status is not ChallengeStatus.OPEN:
            raise ChallengeNotOpen(challenge_id)
        return challenge

    def _answerable(self, tx: Tx, challenge_id: int, kind: ChallengeKind) -> Challenge:
        challenge = self._open_challenge(challenge_id)
        if challenge.kind is not kind:
            raise ChallengeNotOpen(challenge_id)
        if self.epoch(tx) > challenge.answer_by:
            raise AnswerWindowClosed(challenge_id)
        return challenge

    # --- effects ---

    def _open(self, tx: Tx, kind: ChallengeKind, slot: Slot, leaf: Leaf, wanted: int) -> int:
        number, bond = len(self.challenges()), self.parameters(tx.block).challenge_bond
        challenge = Challenge(
            kind=kind,
            status=ChallengeStatus.OPEN,
            epoch=slot.epoch,
            answer_by=slot.epoch + self.ledger.epochs.epoch_reward_delay - 1,
            challenger=tx.sender,
            gateway=slot.gateway,
            provider=leaf.provider,
            model_id=slot.model_id,
            units=leaf.units,
            bond=bond,
            held=self.ledger.gateway_staking.reserve(slot.gateway, wanted),
        )
        self._challenges.value = (*self.challenges(), challenge)
        self._open_challenges[slot.gateway] += 1
        self.ledger.token.pull(self.address, tx.sender, self.address, bond)
        return number

    def _answered(self, number: int, challenge: Challenge) -> None:
        self._end(number, challenge, ChallengeStatus.ANSWERED, self.ledger.gateways.owner_of(challenge.gateway))

    def _end(self, number: int, challenge: Challenge, status: ChallengeStatus, bond_to: Address) -> None:
        everyone = self.challenges()
        ended = replace(challenge, status=status)
        self._challenges.value = (*everyone[:number], ended, *everyone[number + 1 :])
        self._open_challenges[challenge.gateway] -= 1
        self.ledger.gateway_staking.release(challenge.gateway, challenge.held)
        self._payments[bond_to] += challenge.bond

    def _count_open(self, slot: Slot, change: int) -> None:
        sums = self._model_epochs[slot.model_id, slot.epoch]
        self._model_epochs[slot.model_id, slot.epoch] = replace(sums, open_challenges=sums.open_challenges + change)

    def _compensate(self, tx: Tx, slot: Slot, provider: Bytes32, missing: int, challenger: Address) -> bool:
        """Pays a provider what its gateway left out, as far as the gateway's money goes; false if nothing was due."""
        models, token = self.ledger.models, self.ledger.token
        fee, cover = models.fee_for(slot.model_id, slot.epoch, missing), self.cover(slot.gateway)
        if fee > cover:
            missing = models.units_for(slot.model_id, slot.epoch, cover)
            fee = models.fee_for(slot.model_id, slot.epoch, missing)
        if not fee:
            return False
        self._compensated[slot.gateway, provider, slot.epoch] += missing
        self.charge(slot.gateway, fee)
        p = self.parameters_at(slot.epoch + 1)
        royalty = share_of(fee, models.model(slot.model_id).royalty_bps)
        burned = share_of(fee, p.gateway_share_bps) + share_of(fee, p.burn_bps)
        self._royalties[slot.model_id] += royalty
        token.destroy(self.address, burned)
        self._payments[self.ledger.providers.known(provider).owner] += fee - royalty - burned
        self._penalise(tx, slot.gateway, share_of(fee, self.parameters(tx.block).omission_penalty_bps), challenger)
        return True

    def _fraud_once(self, tx: Tx, slot: Slot, offence: Offence) -> None:
        if self._penalized[slot, offence]:
            raise AlreadyPenalized(slot.gateway, offence)
        self._fraud(tx, slot, offence, tx.sender)

    def _fraud(self, tx: Tx, slot: Slot, offence: Offence, challenger: Address) -> None:
        """Once a slot and offence: a part of the stake, and jail."""
        if self._penalized[slot, offence]:
            return
        self._penalized[slot, offence] = True
        current = self.epoch(tx)
        self.ledger.slashing.jail_gateway(slot.gateway, current + self.parameters_at(current).jail_epochs)
        self._penalise(tx, slot.gateway, self._fraud_penalty(tx, slot.gateway), challenger)

    def _fraud_penalty(self, tx: Tx, gateway: Bytes32) -> int:
        amount = self.ledger.gateway_staking.stake_of_key(gateway).amount
        return share_of(amount, self.parameters(tx.block).fraud_penalty_bps)

    def _penalise(self, tx: Tx, gateway: Bytes32, penalty: int, challenger: Address) -> None:
        """Takes at most the effective stake; the challenger's part is paid, the rest burned."""
        taken = min(penalty, self.ledger.gateway_staking.effective_stake_of_key(gateway))
        self.ledger.gateway_staking.charge(gateway, taken, self.address)
        reward = share_of(taken, self.parameters(tx.block).challenger_bps)
        self._payments[challenger] += reward
        self.ledger.token.destroy(self.address, taken - reward)

    def _void(self, slot: Slot, checkpoint: Checkpoint) -> None:
        self._checkpoints[slot] = replace(checkpoint, status=CheckpointStatus.VOIDED)
        self.book(slot, checkpoint.total_units - checkpoint.barred_units, checkpoint.total_fees, -1)
        self.ledger.escrow.return_credit(slot.gateway, checkpoint.total_fees, self.address)


def _slot(voucher: ContributionVoucher) -> Slot:
    return Slot(voucher.gateway, voucher.model_id, voucher.epoch)


def _leaf(slot: Slot, leaf: Leaf) -> Bytes32:
    return merkle.leaf_hash(slot.gateway, leaf.provider, slot.model_id, slot.epoch, leaf.units)
