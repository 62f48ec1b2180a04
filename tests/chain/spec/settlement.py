"""From checkpoints to pots: posting, proving, finalising, royalties and the gateways' shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chain.contract_errors import (
    AlreadyFinalized,
    AlreadyProven,
    CheckpointExists,
    EpochNotReady,
    InsufficientCover,
    InvalidProof,
    NotGatewaySigner,
    NothingToClaim,
    NotModelCreator,
    PostingWindowClosed,
    UnknownModel,
    WrongFees,
    ZeroAmount,
    ZeroRoot,
)
from chain.emission import split_fees
from chain.merkle import Sibling
from chain.primitives import MAX_UINT96, ZERO_HASH, Address, Bytes32, checksummed, key_of, share_of
from tests.chain.spec.base import Tx, call, check_bounds
from tests.chain.spec.challenges import Challenges
from tests.chain.spec.settlement_state import Checkpoint, CheckpointStatus, Slot


class Settlement(Challenges):
    """Work in epoch e, posting in e + 1, omissions shown through e + d, claims from e + d on."""

    @call
    def post_checkpoint(
        self, tx: Tx, model_id: int, epoch: int, root: Bytes32, total_units: int, total_fees: int, data_hash: Bytes32
    ) -> None:
        """`data_hash` is only announced; nothing is computed from it."""
        gateways, staking, current = self.ledger.gateways, self.ledger.gateway_staking, self.epoch(tx)
        gateway = gateways.gateway_of_signer(tx.sender)
        if gateway == ZERO_HASH or gateways.signer_at(gateway, current) != tx.sender:
            raise NotGatewaySigner(checksummed(tx.sender))
        if not self.ledger.models.exists(model_id):
            raise UnknownModel(model_id)
        if epoch + 1 != current:
            raise PostingWindowClosed(epoch, current)
        slot = Slot(gateway, model_id, epoch)
        if self._checkpoints[slot].status is not CheckpointStatus.NONE:
            raise CheckpointExists(gateway, model_id, epoch)
        if root == ZERO_HASH:
            raise ZeroRoot()
        if not total_units:
            raise ZeroAmount()
        check_bounds(total_units, 1, MAX_UINT96)
        expected = self.ledger.models.fee_for(model_id, epoch, total_units)
        if total_fees != expected:
            raise WrongFees(total_fees, expected)
        cover = self.ledger.escrow.credit_of(gateway) + staking.spare_stake(gateway)
        if total_fees > cover:
            raise InsufficientCover(total_fees, cover)
        self._checkpoints[slot] = Checkpoint(root, total_units, total_fees, CheckpointStatus.POSTED)
        self._posters[model_id, epoch] = (*self._posters[model_id, epoch], gateway)
        self.book(slot, total_units, total_fees)
        burned = share_of(total_fees, self.parameters_at(epoch + 1).burn_bps)
        self.ledger.models.record_spend(model_id, gateway, burned - burned // 2)
        self.charge(gateway, total_fees)

    @call
    def prove_contribution(self, tx: Tx, identifier: str, epoch: int, units: int, proof: Sequence[Sibling]) -> None:
        """Writes a leaf of the first checkpoint, in order of posting, that it belongs to."""
        key, model_id = self._require_work(identifier, units)
        self._finalize_once(tx, model_id, epoch)
        for gateway in self._posters[model_id, epoch]:
            slot = Slot(gateway, model_id, epoch)
            if self.has_leaf(slot, key, units, proof):
                self._record(slot, key, units)
                return
        raise InvalidProof()

    @call
    def prove_contribution_for(
        self, tx: Tx, gateway_id: str, identifier: str, epoch: int, units: int, proof: Sequence[Sibling]
    ) -> None:
        key, model_id = self._require_work(identifier, units)
        gateway = key_of(gateway_id)
        self.ledger.gateways.known(gateway)
        self._finalize_once(tx, model_id, epoch)
        slot = Slot(gateway, model_id, epoch)
        self.posted(slot)
        if not self.has_leaf(slot, key, units, proof):
            raise InvalidProof()
        self._record(slot, key, units)

    @call
    def finalize(self, tx: Tx, model_id: int, epoch: int) -> None:
        """Moves the fees, emission and boosts of a claimable epoch into the model's pot."""
        if not self.ledger.models.exists(model_id):
            raise UnknownModel(model_id)
        self._require_claimable(tx, epoch)
        if self._model_epochs[model_id, epoch].finalized:
            raise AlreadyFinalized(model_id, epoch)
        self._finalize(model_id, epoch)

    @call
    def claim_royalty(self, tx: Tx, model_id: int) -> int:
        """Wei of royalties paid to the model's creator."""
        if self.ledger.models.model(model_id).creator != tx.sender:
            raise NotModelCreator(model_id, checksummed(tx.sender))
        amount = self._royalties[model_id]
        if not amount:
            raise NothingToClaim()
        self._royalties[model_id] = 0
        self.ledger.token.move(self.address, tx.sender, amount)
        return amount

    def take_gateway_shares(self, gateway: Bytes32, first: int, last: int, to: Address) -> int:
        """Gateway staking pays out the shares of epochs `first … last`."""
        amount = 0
        for epoch in range(first, last + 1):
            share = self._shares[gateway, epoch]
            if share:
                self._shares[gateway, epoch] = 0
                amount += share
        self.ledger.token.move(self.address, to, amount)
        return amount

    def _require_work(self, identifier: str, units: int) -> tuple[Bytes32, int]:
        key = key_of(identifier)
        provider = self.ledger.providers.known(key)
        if not units:
            raise ZeroAmount()
        return key, provider.model_id

    def _require_claimable(self, tx: Tx, epoch: int) -> None:
        claimable = self.ledger.epochs.claimable_epoch(tx.block)
        if not 0 < epoch <= claimable:
            raise EpochNotReady(epoch, claimable)

    def _finalize_once(self, tx: Tx, model_id: int, epoch: int) -> None:
        self._require_claimable(tx, epoch)
        if not self._model_epochs[model_id, epoch].finalized:
            self._finalize(model_id, epoch)

    def _finalize(self, model_id: int, epoch: int) -> None:
        sums = self._model_epochs[model_id, epoch]
        self._model_epochs[model_id, epoch] = replace(sums, finalized=True)
        models, pool, token = self.ledger.models, self.ledger.router.pool(model_id), self.ledger.token
        royalty_bps = models.model(model_id).royalty_bps
        split = split_fees(sums.fees, sums.shares, self.parameters_at(epoch + 1).burn_bps, royalty_bps)
        self._royalties[model_id] += split.royalty
        token.destroy(self.address, split.burn)
        token.move(self.address, pool.address, split.net)
        weight, all_weights = self.weight(sums.fees, epoch), self._weights[epoch]
        emission, boost = self.ledger.reward_pool.settle(model_id, epoch, weight, all_weights, pool.address)
        if sums.units:
            models.record_usage(model_id, sums.units, sums.fees, split.burn - emission)
        pool.fund_pot(epoch, split.net + emission + boost, sums.units)

    def _record(self, slot: Slot, provider: Bytes32, units: int) -> None:
        """A larger leaf of the same provider counts for what it has more: a small one must not bar it."""
        work = slot.gateway, provider, slot.epoch
        more = units - self._proven[work]
        if more <= 0:
            raise AlreadyProven(provider, slot.gateway, slot.epoch)
        self._proven[work] = units
        self.ledger.router.pool(slot.model_id).record_contribution(provider, slot.epoch, more)
