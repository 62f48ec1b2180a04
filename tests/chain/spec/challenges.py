"""The disputes that the chain decides by itself: omissions, shown at once or asked for, and equivocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chain.contract_errors import (
    AlreadyChallenged,
    AlreadyPenalized,
    AnswerWindowClosed,
    AnswerWindowOpen,
    ChallengeNotOpen,
    ChallengeWindowClosed,
    ChallengeWindowNotOpen,
    InvalidProof,
    NotEquivocation,
    NothingMissing,
    UnknownChallenge,
    WrongModel,
)
from chain.merkle import Sibling
from chain.primitives import MAX_UINT96, share_of
from chain.vouchers import CheckpointCommitment, ContributionVoucher
from tests.chain.spec.base import Tx, call, check_bounds, uint128
from tests.chain.spec.compensation import Compensation
from tests.chain.spec.settlement_state import Challenge, ChallengeStatus, CheckpointStatus, Offence, Slot


class Challenges(Compensation):
    """Windows, with d the reward delay: epoch e is challenged through e + d; interactive challenges are opened through
    e + d − 1 and answered through e + d."""

    @call
    def challenge_omission(
        self, tx: Tx, voucher: ContributionVoucher, signature: bytes, leaf_units: int, proof: Sequence[Sibling]
    ) -> None:
        """A voucher above the leaf shown, or of a slot without a checkpoint (0 units, no proof)."""
        current = self._require_window(tx, voucher.epoch)
        slot, provider = self._require_voucher(voucher, signature), voucher.provider
        if self._checkpoints[slot].status is CheckpointStatus.POSTED:
            if not leaf_units or not self.has_leaf(slot, provider, leaf_units, proof):
                raise InvalidProof()
            self._shown[slot.gateway, provider, slot.epoch] = leaf_units
        else:
            if current <= voucher.epoch + 1:
                raise ChallengeWindowNotOpen(voucher.epoch)
            if leaf_units or proof:
                raise InvalidProof()
        missing = self.missing(slot, provider, voucher.cumulative_units)
        if not missing:
            raise NothingMissing()
        self._compensate(tx, slot, provider, missing, tx.sender)

    @call
    def open_omission_challenge(self, tx: Tx, voucher: ContributionVoucher, signature: bytes) -> int:
        """A voucher whose leaf nobody can find; returns the challenge's number."""
        self._require_window(tx, voucher.epoch, 1)
        slot, provider = self._require_voucher(voucher, signature), voucher.provider
        self.posted(slot)
        work = slot.gateway, provider, slot.epoch
        if voucher.cumulative_units <= self._challenged[work]:
            raise AlreadyChallenged()
        if not self.missing(slot, provider, voucher.cumulative_units):
            raise NothingMissing()
        self._challenged[work] = voucher.cumulative_units
        fee = self._fee(slot, voucher.cumulative_units - self.known_units(work))
        number, bond = len(self.challenges()), max(1, share_of(fee, self.parameters(tx.block).bond_bps))
        challenge = Challenge(
            status=ChallengeStatus.OPEN,
            epoch=slot.epoch,
            answer_by=slot.epoch + self.ledger.epochs.epoch_reward_delay,
            challenger=tx.sender,
            gateway=slot.gateway,
            provider=provider,
            model_id=slot.model_id,
            units=voucher.cumulative_units,
            bond=uint128(bond),
            held=self.ledger.gateway_staking.hold_line(slot.gateway, provider, fee),
        )
        self._challenges.value = (*self.challenges(), challenge)
        self.ledger.token.pull(self.address, tx.sender, self.address, bond)
        return number

    @call
    def answer_omission(self, tx: Tx, challenge_id: int, units: int, proof: Sequence[Sibling]) -> None:
        """Shows the leaf. With all the challenged units it ends the challenge; with fewer the rest is compensated."""
        challenge = self._open_challenge(challenge_id)
        if self.epoch(tx) > challenge.answer_by:
            raise AnswerWindowClosed(challenge_id)
        slot, provider = challenge.slot, challenge.provider
        if not units or not self.has_leaf(slot, provider, units, proof):
            raise InvalidProof()
        self._shown[slot.gateway, provider, slot.epoch] = units
        if units >= challenge.units:
            self._end(challenge_id, challenge, ChallengeStatus.ANSWERED)
            # Burned: a wrong challenge feeds nobody, so nobody gains by withholding a leaf.
            self.ledger.token.destroy(self.address, challenge.bond)
        else:
            self._uphold(tx, challenge_id, challenge)

    @call
    def resolve_challenge(self, tx: Tx, challenge_id: int) -> None:
        """Upholds what nobody answered; anybody, at any time."""
        challenge = self._open_challenge(challenge_id)
        if self.epoch(tx) <= challenge.answer_by:
            raise AnswerWindowOpen(challenge_id, challenge.answer_by)
        self._uphold(tx, challenge_id, challenge)

    @call
    def challenge_equivocation(
        self, tx: Tx, a: CheckpointCommitment, signature_a: bytes, b: CheckpointCommitment, signature_b: bytes
    ) -> None:
        """Two different commitments for one slot, both signed by the gateway."""
        self._require_window(tx, a.epoch)
        self.ledger.gateways.known(a.gateway)
        slot = Slot(a.gateway, a.model_id, a.epoch)
        if Slot(b.gateway, b.model_id, b.epoch) != slot or a == b:
            raise NotEquivocation()
        signer = self.ledger.gateways.signer_at(a.gateway, a.epoch)
        self.require_signature(a, signature_a, signer)
        self.require_signature(b, signature_b, signer)
        self._fraud(tx, slot)

    @call
    def challenge_posted(self, tx: Tx, commitment: CheckpointCommitment, signature: bytes) -> None:
        """A signed commitment that differs from what was posted."""
        self._require_window(tx, commitment.epoch)
        self.ledger.gateways.known(commitment.gateway)
        slot = Slot(commitment.gateway, commitment.model_id, commitment.epoch)
        posted = self.posted(slot)
        promised = (commitment.root, commitment.total_units, commitment.total_fees)
        if promised == (posted.root, posted.total_units, posted.total_fees):
            raise NotEquivocation()
        signer = self.ledger.gateways.signer_at(slot.gateway, slot.epoch)
        self.require_signature(commitment, signature, signer)
        self._fraud(tx, slot)

    # --- checks ---

    def _require_window(self, tx: Tx, epoch: int, before: int = 0) -> int:
        """`before`: epochs that must be left."""
        current = self.epoch(tx)
        if epoch > current:
            raise ChallengeWindowNotOpen(epoch)
        if current > epoch + self.ledger.epochs.epoch_reward_delay - before:
            raise ChallengeWindowClosed(epoch)
        return current

    def _require_voucher(self, voucher: ContributionVoucher, signature: bytes) -> Slot:
        check_bounds(voucher.cumulative_units, 1, MAX_UINT96)
        self.ledger.gateways.known(voucher.gateway)
        if self.ledger.providers.known(voucher.provider).model_id != voucher.model_id:
            raise WrongModel(voucher.provider, voucher.model_id)
        self.require_signature(voucher, signature, self.ledger.gateways.signer_at(voucher.gateway, voucher.epoch))
        return Slot(voucher.gateway, voucher.model_id, voucher.epoch)

    def _open_challenge(self, challenge_id: int) -> Challenge:
        if challenge_id >= len(self.challenges()):
            raise UnknownChallenge(challenge_id)
        challenge = self.challenges()[challenge_id]
        if challenge.status is not ChallengeStatus.OPEN:
            raise ChallengeNotOpen(challenge_id)
        return challenge

    # --- effects ---

    def _uphold(self, tx: Tx, number: int, challenge: Challenge) -> None:
        """The bond goes back, and what is missing now is compensated."""
        self._end(number, challenge, ChallengeStatus.UPHELD)
        self._payments[challenge.challenger] += challenge.bond
        missing = self.missing(challenge.slot, challenge.provider, challenge.units)
        if missing:
            self._compensate(tx, challenge.slot, challenge.provider, missing, challenge.challenger)

    def _end(self, number: int, challenge: Challenge, status: ChallengeStatus) -> None:
        everyone = self.challenges()
        self._challenges.value = (*everyone[:number], replace(challenge, status=status), *everyone[number + 1 :])
        self.ledger.gateway_staking.end_hold(challenge.gateway, challenge.provider, challenge.held)

    def _fraud(self, tx: Tx, slot: Slot) -> None:
        """Once a slot: a part of the stake (of which lines stay untouched), and jail."""
        if self._penalized[slot]:
            raise AlreadyPenalized(slot.gateway, Offence.EQUIVOCATION)
        self._penalized[slot] = True
        current = self.epoch(tx)
        p = self.parameters_at(current)
        self.ledger.slashing.jail_gateway(slot.gateway, current + p.jail_epochs)
        stake = self.ledger.gateway_staking.stake_of_key(slot.gateway).amount
        self._penalise(tx, slot.gateway, share_of(stake, p.fraud_penalty_bps), tx.sender)
