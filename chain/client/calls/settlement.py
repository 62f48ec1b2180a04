"""Checkpoints, proofs and disputes: `client.settlement`, `client.slashing`, `client.disputes`."""

from __future__ import annotations

from collections.abc import Sequence

from chain.abi import Record
from chain.client.actions import Action, Prepared, Spend
from chain.client.checks import check_id
from chain.client.core import Core
from chain.merkle import ContributionTree, Leaf
from chain.primitives import key_of
from chain.vouchers import CheckpointCommitment, ContributionVoucher, SlaReport


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

    def prove_contribution(self, identifier: str, epoch: int, units: int, proof: Sequence[bytes]) -> Action:
        """Write a provider's leaf once the epoch is claimable; anyone may."""
        return self._core.action("Settlement", "proveContribution", check_id(identifier), epoch, units, list(proof))

    def prove_contribution_for(
        self, gateway_id: str, identifier: str, epoch: int, units: int, proof: Sequence[bytes]
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
        self, voucher: ContributionVoucher, signature: bytes, leaf_units: int = 0, proof: Sequence[bytes] = ()
    ) -> Action:
        """A voucher above its leaf, or without a valid checkpoint (0 and no proof)."""
        return self._core.action("Settlement", "challengeOmission", voucher, signature, leaf_units, list(proof))

    def open_omission_challenge(self, voucher: ContributionVoucher, signature: bytes) -> Action:
        """A voucher whose leaf is nowhere to be found. Takes a bond, which is approved first."""
        return self._bonded("openOmissionChallenge", voucher, signature)

    def answer_omission(self, challenge_id: int, units: int, proof: Sequence[bytes]) -> Action:
        return self._core.action("Settlement", "answerOmission", challenge_id, units, list(proof))

    def open_leaf_challenge(
        self, gateway_id: str, model_id: int, epoch: int, leaf: Leaf, proof: Sequence[bytes]
    ) -> Action:
        """A leaf that its provider never acknowledged. Takes a bond, which is approved first."""
        return self._bonded("openLeafChallenge", key_of(check_id(gateway_id)), model_id, epoch, leaf, list(proof))

    def answer_leaf(self, challenge_id: int, receipt_units: int, signature: bytes) -> Action:
        return self._core.action("Settlement", "answerLeaf", challenge_id, receipt_units, signature)

    def resolve_challenge(self, challenge_id: int) -> Action:
        return self._core.action("Settlement", "resolveChallenge", challenge_id)

    def challenge_sum(self, gateway_id: str, model_id: int, epoch: int, leaves: Sequence[Leaf]) -> Action:
        """All leaves, in tree order, do not add up to the posted total."""
        key = key_of(check_id(gateway_id))
        return self._core.action("Settlement", "challengeSum", key, model_id, epoch, list(leaves))

    def challenge_sum_overflow(
        self,
        gateway_id: str,
        model_id: int,
        epoch: int,
        leaves: Sequence[Leaf],
        proof: Sequence[bytes],
        flags: Sequence[bool],
    ) -> Action:
        """Some leaves already add up to more than the posted total."""
        key = key_of(check_id(gateway_id))
        return self._core.action(
            "Settlement", "challengeSumOverflow", key, model_id, epoch, list(leaves), list(proof), list(flags)
        )

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

    def challenge_overdraw(self, vouchers: Sequence[ContributionVoucher], signatures: Sequence[bytes]) -> Action:
        """Vouchers of one slot that cost more than the gateway has."""
        return self._core.action("Settlement", "challengeOverdraw", list(vouchers), list(signatures))

    # --- views ---

    async def checkpoint(self, gateway_id: str, model_id: int, epoch: int) -> Record:
        """What a gateway has posted for a model and epoch; its `status` is 0 for nothing, 1 posted, 2 voided."""
        key = key_of(check_id(gateway_id))
        found: Record = await self._core.view("Settlement", "checkpoint", key, model_id, epoch)
        return found

    async def model_epoch(self, model_id: int, epoch: int) -> Record:
        """Sums over the valid checkpoints of a model and epoch."""
        found: Record = await self._core.view("Settlement", "modelEpoch", model_id, epoch)
        return found

    async def challenge(self, challenge_id: int) -> Record:
        found: Record = await self._core.view("Settlement", "challenge", challenge_id)
        return found

    async def royalty_of(self, model_id: int) -> int:
        return int(await self._core.view("Settlement", "royaltyOf", model_id))

    async def payments_of(self, account: str | None = None) -> int:
        return int(await self._core.view("Settlement", "paymentsOf", account or self._core.address))

    async def is_proven(self, gateway_id: str, identifier: str, epoch: int) -> bool:
        return bool(await self._core.view("Settlement", "isProven", key_of(gateway_id), key_of(identifier), epoch))

    async def parameters(self) -> Record:
        found: Record = await self._core.view("Settlement", "parameters")
        return found

    def _bonded(self, function: str, *arguments: object) -> Action:
        call = self._core.call("Settlement", function, *arguments)

        async def prepare() -> Prepared:
            bond = (await self.parameters()).challenge_bond
            return Prepared(call, Spend(self._core.deployment.address("Settlement"), bond))

        return Action(self._core, prepare)


class Slashing:
    """Slashing: service-level commitments and the jail."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def commit_sla(self, identifier: str, *, uptime_bps: int, latency_ms: int, penalty_bps: int, epochs: int) -> Action:
        """Promise a share of requests served and a p95 latency, from the next epoch on, for so many epochs."""
        return self._core.action(
            "Slashing", "commitSla", check_id(identifier), uptime_bps, latency_ms, penalty_bps, epochs
        )

    def enforce_sla(
        self, identifier: str, epoch: int, reports: Sequence[SlaReport], signatures: Sequence[bytes]
    ) -> Action:
        """Penalise a missed commitment by reports of a quorum of gateways."""
        return self._core.action("Slashing", "enforceSla", check_id(identifier), epoch, list(reports), list(signatures))

    async def sla(self, identifier: str) -> Record:
        found: Record = await self._core.view("Slashing", "sla", check_id(identifier))
        return found

    async def provider_jailed_until(self, identifier: str) -> int:
        """Last epoch of a provider's jail; 0 for none."""
        return int(await self._core.view("Slashing", "providerJailedUntil", key_of(check_id(identifier))))

    async def gateway_jailed_until(self, identifier: str) -> int:
        """Last epoch of a gateway's jail; 0 for none."""
        return int(await self._core.view("Slashing", "gatewayJailedUntil", key_of(check_id(identifier))))


class Disputes:
    """Disputes: wrong computation, judged by drawn verifiers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def set_verifier(self, verifier: str, enabled: bool) -> Action:
        """Owner of the contract."""
        return self._core.action("Disputes", "setVerifier", verifier, enabled)

    def open_case(self, identifier: str, epoch: int, evidence_hash: bytes) -> Action:
        return self._core.action("Disputes", "openCase", check_id(identifier), epoch, evidence_hash)

    def vote(self, case_id: int, guilty: bool) -> Action:
        return self._core.action("Disputes", "vote", case_id, guilty)

    def dispute(self, case_id: int) -> Action:
        """Ask, with a bond, that a jailed provider be slashed. The bond is approved first."""
        call = self._core.call("Disputes", "dispute", case_id)

        async def prepare() -> Prepared:
            bond = await self._core.view("Disputes", "disputeBond")
            return Prepared(call, Spend(self._core.deployment.address("Disputes"), bond))

        return Action(self._core, prepare)

    def close(self, case_id: int) -> Action:
        return self._core.action("Disputes", "close", case_id)

    def withdraw_payments(self) -> Action:
        return self._core.action("Disputes", "withdrawPayments")

    async def case_of(self, case_id: int) -> Record:
        found: Record = await self._core.view("Disputes", "caseOf", case_id)
        return found

    async def panel_of(self, case_id: int) -> list[str]:
        return list(await self._core.view("Disputes", "panelOf", case_id))
