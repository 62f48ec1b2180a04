"""Checkpoints, proofs and challenges: `client.settlement` (Settlement)."""

from __future__ import annotations

from collections.abc import Sequence

from chain.abi import Record
from chain.client.actions import Action, Prepared, Spend
from chain.client.checks import check_id
from chain.client.core import Core
from chain.merkle import ContributionTree, Sibling
from chain.primitives import BPS, key_of
from chain.vouchers import CheckpointCommitment, ContributionVoucher


class Settlement:
    """Settlement: from an epoch's work to pots and claims, and the challenges that the chain decides by itself."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # --- the ordinary way ---

    def post_checkpoint(
        self, model_id: int, epoch: int, root: bytes, total_units: int, total_fees: int, data_hash: bytes
    ) -> Action:
        """Post the root of our gateway's contributions to a model in an epoch; in the epoch right after it."""
        return self._core.action(
            "Settlement", "postCheckpoint", model_id, epoch, root, total_units, total_fees, data_hash
        )

    def post_tree(self, tree: ContributionTree, data_hash: bytes) -> Action:
        """`post_checkpoint` of a whole tree; the fees are what its units cost."""

        async def prepare() -> Prepared:
            fees = await self._core.view("ModelRegistry", "feeFor", tree.model_id, tree.epoch, tree.total_units)
            return Prepared(
                self._core.call(
                    "Settlement",
                    "postCheckpoint",
                    tree.model_id,
                    tree.epoch,
                    tree.root,
                    tree.total_units,
                    fees,
                    data_hash,
                )
            )

        return Action(self._core, prepare)

    def prove_contribution(self, identifier: str, epoch: int, units: int, proof: Sequence[Sibling]) -> Action:
        """Write a provider's leaf once the epoch is claimable; anyone may."""
        return self._core.action("Settlement", "proveContribution", check_id(identifier), epoch, units, list(proof))

    def prove_contribution_for(
        self, gateway_id: str, identifier: str, epoch: int, units: int, proof: Sequence[Sibling]
    ) -> Action:
        """The same for a named gateway, without searching."""
        check_id(gateway_id)
        return self._core.action(
            "Settlement", "proveContributionFor", gateway_id, check_id(identifier), epoch, units, list(proof)
        )

    def finalize(self, model_id: int, epoch: int) -> Action:
        """Fill the pot of a claimable epoch; proofs do it by themselves."""
        return self._core.action("Settlement", "finalize", model_id, epoch)

    def claim_royalty(self, model_id: int) -> Action:
        return self._core.action("Settlement", "claimRoyalty", model_id)

    def withdraw_payments(self) -> Action:
        """Take out what challenges have credited to us."""
        return self._core.action("Settlement", "withdrawPayments")

    # --- challenges ---

    def challenge_omission(
        self, voucher: ContributionVoucher, signature: bytes, leaf_units: int = 0, proof: Sequence[Sibling] = ()
    ) -> Action:
        """A voucher above its leaf, or without a checkpoint (0 and no proof). What cannot be paid becomes debt."""
        return self._core.action("Settlement", "challengeOmission", voucher, signature, leaf_units, list(proof))

    def open_omission_challenge(self, voucher: ContributionVoucher, signature: bytes) -> Action:
        """A voucher whose leaf is nowhere to be found. Takes a bond, a part of the fee, which is approved first."""
        call = self._core.call("Settlement", "openOmissionChallenge", voucher, signature)

        async def prepare() -> Prepared:
            bond = await self.bond_for(voucher)
            return Prepared(call, Spend(self._core.deployment.address("Settlement"), bond) if bond else None)

        return Action(self._core, prepare)

    async def bond_for(self, voucher: ContributionVoucher) -> int:
        """Wei that `open_omission_challenge` takes; 0 where nothing is missing, as the contract will say."""
        slot = voucher.gateway, voucher.provider, voucher.epoch
        parameters, shown, compensated = await self._core.views(
            [
                ("Settlement", "parameters", ()),
                ("Settlement", "shownUnits", slot),
                ("Settlement", "compensatedUnits", slot),
            ]
        )
        missing = voucher.cumulative_units - shown - compensated
        if missing <= 0:
            return 0
        fee = await self._core.view("ModelRegistry", "feeFor", voucher.model_id, voucher.epoch, missing)
        return max(1, int(fee) * int(parameters.bond_bps) // BPS)

    def answer_omission(self, challenge_id: int, units: int, proof: Sequence[Sibling]) -> Action:
        """Show the leaf that a challenge asks for."""
        return self._core.action("Settlement", "answerOmission", challenge_id, units, list(proof))

    def resolve_challenge(self, challenge_id: int) -> Action:
        """Uphold a challenge that nobody answered in time."""
        return self._core.action("Settlement", "resolveChallenge", challenge_id)

    def collect_debt(self, gateway_id: str, identifier: str, epoch: int) -> Action:
        """Pay what a gateway owes a provider for an epoch from the money that it has by now."""
        check_id(gateway_id)
        return self._core.action("Settlement", "collectDebt", gateway_id, check_id(identifier), epoch)

    def challenge_equivocation(
        self, first: CheckpointCommitment, first_signature: bytes, second: CheckpointCommitment, second_signature: bytes
    ) -> Action:
        """Two different signed commitments for one slot."""
        return self._core.action(
            "Settlement", "challengeEquivocation", first, first_signature, second, second_signature
        )

    def challenge_posted(self, commitment: CheckpointCommitment, signature: bytes) -> Action:
        """A signed commitment that differs from what was posted."""
        return self._core.action("Settlement", "challengePosted", commitment, signature)

    # --- views ---

    async def checkpoint(self, gateway_id: str, model_id: int, epoch: int) -> Record:
        """What a gateway has posted for a model and epoch; its `status` is 0 for nothing, 1 posted."""
        key = key_of(check_id(gateway_id))
        found: Record = await self._core.view("Settlement", "checkpoint", key, model_id, epoch)
        return found

    async def model_epoch(self, model_id: int, epoch: int) -> Record:
        """Sums over the checkpoints of a model and epoch."""
        found: Record = await self._core.view("Settlement", "modelEpoch", model_id, epoch)
        return found

    async def challenge(self, challenge_id: int) -> Record:
        found: Record = await self._core.view("Settlement", "challenge", challenge_id)
        return found

    async def royalty_of(self, model_id: int) -> int:
        return int(await self._core.view("Settlement", "royaltyOf", model_id))

    async def payments_of(self, account: str | None = None) -> int:
        return int(await self._core.view("Settlement", "paymentsOf", account or self._core.address))

    async def proven_units(self, gateway_id: str, identifier: str, epoch: int) -> int:
        """Units of the leaf of a gateway that were proven for a provider's claim; 0 if none was."""
        return await self._units("provenUnits", gateway_id, identifier, epoch)

    async def shown_units(self, gateway_id: str, identifier: str, epoch: int) -> int:
        """Units of the leaf that a challenge or an answer has shown."""
        return await self._units("shownUnits", gateway_id, identifier, epoch)

    async def challenged_units(self, gateway_id: str, identifier: str, epoch: int) -> int:
        """The most units of which somebody asked to see the leaf."""
        return await self._units("challengedUnits", gateway_id, identifier, epoch)

    async def compensated_units(self, gateway_id: str, identifier: str, epoch: int) -> int:
        """Units that a provider was compensated for, because no leaf has them."""
        return await self._units("compensatedUnits", gateway_id, identifier, epoch)

    async def debt_units(self, gateway_id: str, identifier: str, epoch: int) -> int:
        """Units that a gateway still owes a provider, for want of money."""
        return await self._units("debtUnits", gateway_id, identifier, epoch)

    async def debt_of(self, gateway_id: str) -> int:
        """Wei that all of a gateway's debt costs."""
        return int(await self._core.view("Settlement", "debtOf", key_of(check_id(gateway_id))))

    async def parameters(self) -> Record:
        """The shares, penalties and the bond that are in force."""
        found: Record = await self._core.view("Settlement", "parameters")
        return found

    async def _units(self, function: str, gateway_id: str, identifier: str, epoch: int) -> int:
        keys = key_of(check_id(gateway_id)), key_of(check_id(identifier))
        return int(await self._core.view("Settlement", function, *keys, epoch))
