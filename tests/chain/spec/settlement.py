"""From checkpoints to pots: posting, proving, finalising, royalties and the gateways' shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chain import merkle
from chain.contract_errors import (
    AlreadyFinalized,
    AlreadyProven,
    ChallengesOpen,
    CheckpointExists,
    EpochNotReady,
    GatewayNotBonded,
    InsufficientCover,
    InvalidProof,
    LeafBarred,
    NotGatewaySigner,
    NothingToClaim,
    NotModelCreator,
    PostingWindowClosed,
    UnitsExceedTotal,
    UnknownModel,
    WrongFees,
    ZeroAmount,
    ZeroRoot,
)
from chain.emission import split_fees
from chain.primitives import MAX_UINT96, ZERO_HASH, Address, Bytes32, checksummed, key_of
from tests.chain.spec.base import Tx, call, check_bounds
from tests.chain.spec.challenges import Challenges
from tests.chain.spec.settlement_state import Checkpoint, CheckpointStatus, Slot


class Settlement(Challenges):
    """Work in epoch e, posting in e + 1, challenges through e + d − 1, claims from e + d on."""

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
        if self.ledger.slashing.is_gateway_jailed(gateway, tx.block) or staking.is_overdrawn(gateway):
            raise GatewayNotBonded(gateway)
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
        cover = self.cover(gateway) - staking.min_gateway_stake
        if total_fees > cover:
            raise InsufficientCover(total_fees, cover)
        self._checkpoints[slot] = Checkpoint(
            root=root, total_units=total_units, total_fees=total_fees, status=CheckpointStatus.POSTED
        )
        self._posters[model_id, epoch] = (*self._posters[model_id, epoch], gateway)
        self.book(slot, total_units, total_fees, 1)
        self.charge(gateway, total_fees)

    @call
    def prove_contribution(self, tx: Tx, identifier: str, epoch: int, units: int, proof: Sequence[Bytes32]) -> None:
        """Writes a leaf of the first checkpoint, in order of posting, that it belongs to."""
        key, model_id = self._require_work(identifier, units)
        self._finalize_once(tx, model_id, epoch)
        for gateway in self._posters[model_id, epoch]:
            slot = Slot(gateway, model_id, epoch)
            checkpoint = self._checkpoints[slot]
            leaf = merkle.leaf_hash(gateway, key, model_id, epoch, units)
            if checkpoint.status is CheckpointStatus.POSTED and merkle.verify(checkpoint.root, leaf, proof):
                self._record(slot, checkpoint, key, leaf, units)
                return
        raise InvalidProof()

    @call
    def prove_contribution_for(
        self, tx: Tx, gateway_id: str, identifier: str, epoch: int, units: int, proof: Sequence[Bytes32]
    ) -> None:
        key, model_id = self._require_work(identifier, units)
        gateway = key_of(gateway_id)
        self.ledger.gateways.known(gateway)
        self._finalize_once(tx, model_id, epoch)
        slot = Slot(gateway, model_id, epoch)
        checkpoint = self.posted(slot)
        leaf = merkle.leaf_hash(gateway, key, model_id, epoch, units)
        if not merkle.verify(checkpoint.root, leaf, proof):
            raise InvalidProof()
        self._record(slot, checkpoint, key, leaf, units)

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
        """Gateway staking pays out the shares of epochs `first … last`; each epoch with a share is sealed."""
        amount = 0
        for epoch in range(first, last + 1):
            share = self._shares[gateway, epoch]
            if share:
                self._shares[gateway, epoch] = 0
                self._sealed[epoch] = True
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
        if sums.open_challenges:
            raise ChallengesOpen(model_id, epoch)
        self._model_epochs[model_id, epoch] = replace(sums, finalized=True)
        self._sealed[epoch] = True
        models, pool, token = self.ledger.models, self.ledger.router.pool(model_id), self.ledger.token
        if sums.units:
            models.record_usage(model_id, sums.units, sums.fees)
        royalty_bps = models.model(model_id).royalty_bps
        split = split_fees(sums.fees, sums.shares, self.parameters_at(epoch + 1).burn_bps, royalty_bps)
        self._royalties[model_id] += split.royalty
        token.destroy(self.address, split.burn)
        token.move(self.address, pool.address, split.net)
        weight = self._weights[epoch]
        emission, boost = self.ledger.reward_pool.settle(model_id, epoch, split.burn, weight, pool.address)
        pool.fund_pot(epoch, split.net + emission + boost, sums.units)

    def _record(self, slot: Slot, checkpoint: Checkpoint, provider: Bytes32, leaf: Bytes32, units: int) -> None:
        if self._barred[leaf]:
            raise LeafBarred(provider, slot.gateway, slot.epoch)
        if self._proven[slot.gateway, provider, slot.epoch]:
            raise AlreadyProven(provider, slot.gateway, slot.epoch)
        left = checkpoint.total_units - checkpoint.barred_units - checkpoint.proven_units
        if units > left:
            raise UnitsExceedTotal(units, left)
        self._proven[slot.gateway, provider, slot.epoch] = True
        self._checkpoints[slot] = replace(checkpoint, proven_units=checkpoint.proven_units + units)
        self.ledger.router.pool(slot.model_id).record_contribution(provider, slot.epoch, units)
