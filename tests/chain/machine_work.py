"""Rules of the state machines about work: vouchers, checkpoints, proofs, pots, challenges, commitments, cases."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import rule

from chain.ledger.disputes import CaseStatus
from chain.ledger.settlement_state import ChallengeKind, ChallengeStatus, CheckpointStatus
from chain.merkle import ContributionTree, Leaf, leaf_hash
from chain.primitives import Address, Bytes32, key_of
from chain.vouchers import (
    CheckpointCommitment,
    ContributionReceipt,
    ContributionVoucher,
    Domain,
    Message,
    SlaReport,
    digest,
    sign,
)
from tests.chain.machine_accounts import Accounts, fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, OWNER, PROVIDERS, SIGNING, mostly, pick


class Work(Accounts):
    """`promised`: units by gateway, provider and epoch that the gateway has signed. `trees`: what was posted."""

    def signed(self, domain: Domain, message: Message, signer: Address) -> bytes:
        """By the key that is asked for, or, if the test has no such key, by another."""
        return sign(digest(domain, message), SIGNING.get(signer, next(iter(SIGNING.values()))))

    def model_of(self, provider: str) -> int:
        found = self.ledger.providers.by_key(key_of(provider))
        return found.model_id if found else 1

    # --- the ordinary way ---

    @rule(data=st.data(), units=st.integers(1, 400))
    def serve(self, data: st.DataObject, units: int) -> None:
        """Work of this epoch: the gateway's voucher grows. No transaction."""
        key = (pick(data, GATEWAYS), pick(data, PROVIDERS), self.epoch)
        self.promised[key] = self.promised.get(key, 0) + units

    @rule(data=st.data())
    def serve_and_post(self, data: st.DataObject) -> None:
        """A whole epoch of work for one gateway, posted in time."""
        gateway = pick(data, GATEWAYS[:2])
        for provider in PROVIDERS[:3]:
            key = (gateway, provider, self.epoch)
            self.promised[key] = self.promised.get(key, 0) + data.draw(st.integers(1, 200), "units")
        self.next_epoch(0)
        for model_id in (1, 2):
            self.post(data, gateway, model_id, self.epoch - 1)

    @rule(data=st.data())
    def post_something(self, data: st.DataObject) -> None:
        epoch = self.epoch - 1 if mostly(data) else pick(data, [self.epoch, max(self.epoch - 2, 0)])
        self.post(data, pick(data, GATEWAYS), self.model(data), epoch)

    def post(self, data: st.DataObject, gateway: str, model_id: int, epoch: int) -> None:
        """Mostly the truth; sometimes a leaf less, a leaf too many, other units, or another total."""
        key, models = key_of(gateway), self.ledger.models
        leaves = [
            Leaf(key_of(provider), units)
            for (by, provider, when), units in self.promised.items()
            if (by, when) == (gateway, epoch) and self.model_of(provider) == model_id
        ]
        if not mostly(data, 4):
            leaves = leaves[1:]
        if not mostly(data, 4):
            leaves = [replace(leaf, units=max(leaf.units // 2, 0)) for leaf in leaves]
        if not leaves or not mostly(data, 4):
            stranger = pick(data, ["nobody", *PROVIDERS])
            if key_of(stranger) not in {leaf.provider for leaf in leaves}:
                leaves.append(Leaf(key_of(stranger), data.draw(st.sampled_from([0, 1, 50, 2**130]), "units")))
        tree = ContributionTree(key, model_id, epoch, leaves)
        total = tree.total_units if mostly(data, 4) else pick(data, [0, 1, max(tree.total_units - 1, 0), 2**96])
        known = models.exists(model_id) and total < 2**200
        fees = models.fee_for(model_id, epoch, total) if known else 0
        fees += 0 if mostly(data, 10) else 1
        root = tree.root if mostly(data, 20) else bytes(32)
        signer = self.ledger.gateways.signer_at(key, self.epoch)
        caller = self.caller(data, signer)
        arguments = (model_id, epoch, root, total, fees, fresh(self.transactions))
        if self.do("settlement", "post_checkpoint", caller, *arguments) and caller == signer:
            self.trees[key, model_id, epoch] = tree

    def a_leaf(self, data: st.DataObject) -> tuple[ContributionTree, Leaf, tuple[Bytes32, ...]]:
        """A leaf of a posted tree with its proof; rarely spoilt."""
        tree = self.trees[pick(data, sorted(self.trees), "tree")]
        leaf = pick(data, tree.leaves, "leaf")
        proof = tree.proof(leaf.provider)
        if not mostly(data, 12):
            proof = (*proof, bytes(32))
        return tree, leaf, proof

    def name_of(self, key: Bytes32) -> str:
        return next((name for name in (*PROVIDERS, *GATEWAYS) if key_of(name) == key), "nobody")

    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        if not self.trees:
            return
        tree, leaf, proof = self.a_leaf(data)
        provider, caller = self.name_of(leaf.provider), pick(data, ACTORS)
        units = leaf.units if mostly(data, 12) else leaf.units + 1
        arguments = (provider, tree.epoch, units, proof)
        if mostly(data, 3):
            self.do("settlement", "prove_contribution", caller, *arguments)
        else:
            self.do("settlement", "prove_contribution_for", caller, self.name_of(tree.gateway), *arguments)

    @rule(data=st.data())
    def prove_all_and_claim(self, data: st.DataObject) -> None:
        """Every leaf of a claimable epoch, then the claims."""
        ready = self.ledger.epochs.claimable_epoch(self.block)
        epochs = sorted({epoch for _, _, epoch in self.trees if 0 < epoch <= ready})
        if not epochs:
            return
        epoch = pick(data, epochs)
        for tree in [tree for key, tree in self.trees.items() if key[2] == epoch]:
            for leaf in tree.leaves[:4]:
                if mostly(data, 5):
                    arguments = (self.name_of(leaf.provider), epoch, leaf.units, tree.proof(leaf.provider))
                    self.do("settlement", "prove_contribution", ACTORS[5], *arguments)
        for provider in PROVIDERS:
            pool = f"pool {self.model_of(provider)}"
            self.do(pool, "claim_rewards", self.owner_of_provider(provider), provider, epoch, ready)

    @rule(data=st.data(), back=st.integers(-1, 3))
    def finalize(self, data: st.DataObject, back: int) -> None:
        epoch = max(self.ledger.epochs.claimable_epoch(self.block) - back, 0)
        self.do("settlement", "finalize", pick(data, ACTORS), self.model(data), epoch)

    # --- challenges ---

    def a_voucher(self, data: st.DataObject, epoch: int | None = None) -> tuple[ContributionVoucher, bytes]:
        """One that was promised, or nearly one; signed by who signed for the gateway then."""
        recent = [
            key for key in sorted(self.promised) if (epoch is None and key[2] >= self.epoch - 6) or key[2] == epoch
        ]
        gateway, provider, when = (
            pick(data, recent) if recent else (pick(data, GATEWAYS), pick(data, PROVIDERS), self.epoch)
        )
        units = self.promised.get((gateway, provider, when), 5)
        if not mostly(data, 6):
            units = pick(data, [0, 1, units + 3, 2**96, 2**96 - 1])
        model_id = self.model_of(provider) if mostly(data, 12) else 1
        named = key_of(gateway if mostly(data, 20) else "nobody")
        voucher = ContributionVoucher(named, key_of(provider), model_id, when, units)
        signer = self.ledger.gateways.signer_at(named, when)
        return voucher, self.bent(data, self.signed(self.ledger.settlement.domain, voucher, signer))

    @rule(data=st.data())
    def challenge_omission(self, data: st.DataObject) -> None:
        voucher, signature = self.a_voucher(data)
        tree = self.trees.get((voucher.gateway, voucher.model_id, voucher.epoch))
        units, proof = 0, ()
        if tree is not None and mostly(data, 12):
            mine = [leaf for leaf in tree.leaves if leaf.provider == voucher.provider]
            if mine:
                units, proof = mine[0].units, tree.proof(voucher.provider)
        self.do("settlement", "challenge_omission", pick(data, ACTORS), voucher, signature, units, proof)

    @rule(data=st.data())
    def open_omission(self, data: st.DataObject) -> None:
        voucher, signature = self.a_voucher(data)
        self.do("settlement", "open_omission_challenge", pick(data, ACTORS), voucher, signature)

    @rule(data=st.data())
    def open_leaf(self, data: st.DataObject) -> None:
        recent = [key for key in sorted(self.trees) if key[2] >= self.epoch - 6]
        if not recent:
            return
        tree = self.trees[pick(data, recent)]
        leaf = pick(data, tree.leaves)
        proof = tree.proof(leaf.provider) if mostly(data, 12) else ()
        arguments = (tree.gateway, tree.model_id, tree.epoch, leaf, proof)
        self.do("settlement", "open_leaf_challenge", pick(data, ACTORS), *arguments)

    def a_challenge(self, data: st.DataObject) -> int:
        everyone = self.ledger.settlement.challenges()
        running = [i for i, c in enumerate(everyone) if c.status is ChallengeStatus.OPEN]
        return pick(data, running) if running and mostly(data) else pick(data, range(len(everyone) + 1))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = self.a_challenge(data)
        everyone = self.ledger.settlement.challenges()
        if number == len(everyone):
            self.do("settlement", "answer_omission", ACTORS[0], number, 1, ())
            return
        c = everyone[number]
        tree = self.trees.get((c.gateway, c.model_id, c.epoch))
        mine = [leaf for leaf in tree.leaves if leaf.provider == c.provider] if tree else []
        if (c.kind is ChallengeKind.OMISSION) == mostly(data, 12):
            units, proof = (mine[0].units, tree.proof(c.provider)) if mine and tree else (c.units, ())
            self.do("settlement", "answer_omission", pick(data, ACTORS), number, units, proof)
            return
        units = c.units if mostly(data, 6) else max(c.units - 1, 0)
        receipt = ContributionReceipt(c.gateway, c.provider, c.model_id, c.epoch, units)
        signer = self.ledger.providers.signer_at(c.provider, c.epoch)
        signature = self.bent(data, self.signed(self.ledger.settlement.domain, receipt, signer))
        self.do("settlement", "answer_leaf", pick(data, ACTORS), number, units, signature)

    @rule(data=st.data())
    def resolve(self, data: st.DataObject) -> None:
        self.do("settlement", "resolve_challenge", pick(data, ACTORS), self.a_challenge(data))

    @rule(data=st.data())
    def challenge_a_sum(self, data: st.DataObject) -> None:
        recent = [key for key in sorted(self.trees) if key[2] >= self.epoch - 6]
        if not recent:
            return
        lying = [
            key for key in recent if self.ledger.settlement.checkpoint(*key).total_units != self.trees[key].total_units
        ]
        key = pick(data, lying if lying and mostly(data, 4) else recent)
        tree, caller = self.trees[key], pick(data, ACTORS)
        if mostly(data, 2):
            leaves = tree.leaves if mostly(data) else pick(data, [(), tree.leaves[::-1], tree.leaves[1:]])
            self.do("settlement", "challenge_sum", caller, *key, leaves)
            return
        wanted = data.draw(st.sets(st.sampled_from([leaf.provider for leaf in tree.leaves]), min_size=1), "leaves")
        leaves, proof = tree.multiproof(wanted)
        given, flags = proof.proof, proof.flags
        if not mostly(data):
            leaves, given, flags = pick(data, [(leaves[::-1], given, flags), (leaves, given[1:], flags), ((), (), ())])
        self.do("settlement", "challenge_sum_overflow", caller, *key, leaves, given, flags)

    def a_commitment(self, data: st.DataObject) -> tuple[CheckpointCommitment, Address]:
        keys = [key for key in sorted(self.trees) if key[2] >= self.epoch - 6]
        gateway, model_id, epoch = pick(data, keys) if keys else (key_of("g0"), 1, self.epoch)
        c = self.ledger.settlement.checkpoint(gateway, model_id, epoch)
        units = c.total_units + pick(data, [0, 1, 2])
        commitment = CheckpointCommitment(gateway, model_id, epoch, c.root, units, c.total_fees, fresh(units))
        return commitment, self.ledger.gateways.signer_at(gateway, epoch)

    @rule(data=st.data())
    def challenge_equivocation(self, data: st.DataObject) -> None:
        (a, signer), domain = self.a_commitment(data), self.ledger.settlement.domain
        if mostly(data, 2):
            signature = self.bent(data, self.signed(domain, a, signer))
            self.do("settlement", "challenge_posted", pick(data, ACTORS), a, signature)
            return
        b = replace(a, total_units=a.total_units + pick(data, [0, 1, 1, 1]), epoch=a.epoch + (not mostly(data)))
        signatures = [self.bent(data, self.signed(domain, commitment, signer)) for commitment in (a, b)]
        arguments = (a, signatures[0], b, signatures[1])
        self.do("settlement", "challenge_equivocation", pick(data, ACTORS), *arguments)

    @rule(data=st.data())
    def challenge_overdraw(self, data: st.DataObject) -> None:
        """Mostly vouchers for far more than the gateway has, in a slot of this epoch or the last."""
        gateway, epoch = pick(data, GATEWAYS), max(self.epoch - pick(data, [0, 1]), 0)
        model_id = pick(data, [1, 2])
        named = sorted(key_of(p) for p in PROVIDERS if self.model_of(p) == model_id)[: pick(data, [1, 2])]
        units = pick(data, [1, 2**90, 2**90, 2**90])
        vouchers = [ContributionVoucher(key_of(gateway), provider, model_id, epoch, units) for provider in named]
        if not mostly(data):
            vouchers = vouchers[::-1]
        signer = self.ledger.gateways.signer_at(key_of(gateway), epoch)
        signatures = [self.bent(data, self.signed(self.ledger.settlement.domain, v, signer)) for v in vouchers]
        signatures = signatures if mostly(data) else signatures[1:]
        self.do("settlement", "challenge_overdraw", pick(data, ACTORS), vouchers, signatures)

    @rule(data=st.data())
    def set_parameters(self, data: st.DataObject) -> None:
        share, burn = pick(data, [0, 1000, 2000, 2001]), pick(data, [99, 100, 500, 2000])
        rest = pick(data, [(5000, 1000, 0, 7, 5), (20_000, 10_000, 5000, 6, 10**19), (4999, 1, 1, 1, 0)])
        self.do("settlement", "set_parameters", OWNER if mostly(data) else ACTORS[0], share, burn, *rest)

    # --- service levels ---

    @rule(data=st.data())
    def commit_sla(self, data: st.DataObject) -> None:
        provider = pick(data, PROVIDERS)
        promise = pick(data, [(9900, 50, 1000, 3), (9900, 50, 1000, 3), (1, 1, 1, 1), (0, 1, 1, 1), (1, 1, 1001, 1)])
        self.do("slashing", "commit_sla", self.caller(data, self.owner_of_provider(provider)), provider, *promise)

    @rule(data=st.data(), back=st.integers(0, 5))
    def enforce_sla(self, data: st.DataObject, back: int) -> None:
        provider, epoch = pick(data, PROVIDERS), max(self.epoch - back, 0)
        named = sorted(key_of(gateway) for gateway in GATEWAYS[: pick(data, [2, 2, 3])])
        uptime = pick(data, [9000, 9000, 9950])
        reports = [SlaReport(gateway, key_of(provider), epoch, uptime, 40) for gateway in named]
        if not mostly(data):
            reports = pick(data, [reports[::-1], [replace(reports[0], epoch=epoch + 1), *reports[1:]], reports[1:]])
        signatures = [
            self.bent(
                data, self.signed(self.ledger.slashing.domain, r, self.ledger.gateways.signer_at(r.gateway, r.epoch))
            )
            for r in reports
        ]
        self.do("slashing", "enforce_sla", pick(data, ACTORS), provider, epoch, reports, signatures)

    @rule(data=st.data())
    def set_quorum(self, data: st.DataObject) -> None:
        self.do("slashing", "set_quorum", OWNER, pick(data, [1, 2, 2, 2, 3, 65]))
        self.do("slashing", "set_sla_jail_epochs", OWNER, pick(data, [0, 1, 4, 101]))

    # --- cases ---

    @rule(data=st.data())
    def set_verifier(self, data: st.DataObject) -> None:
        self.do("disputes", "set_verifier", OWNER, pick(data, [*ACTORS, bytes(20)]), mostly(data, 4))

    @rule(data=st.data())
    def open_case(self, data: st.DataObject) -> None:
        while len(self.ledger.disputes.verifiers) < 4:
            missing = next(actor for actor in ACTORS if actor not in self.ledger.disputes.verifiers)
            self.do("disputes", "set_verifier", OWNER, missing, True)
        caller = pick(data, self.ledger.disputes.verifiers) if mostly(data) else OWNER
        self.do("disputes", "open_case", caller, pick(data, [*PROVIDERS, "nobody"]), self.epoch, fresh(1))

    @rule(data=st.data(), guilty=st.booleans(), votes=st.integers(1, 4))
    def vote(self, data: st.DataObject, guilty: bool, votes: int) -> None:
        disputes = self.ledger.disputes
        number = pick(data, range(len(disputes.cases) + 1))
        for _ in range(votes):
            voters = list(disputes.verifiers) or list(ACTORS)
            if number < len(disputes.cases) and disputes.case_of(number).status is CaseStatus.VOTING:
                voters = list(disputes.case_of(number).panel)
            self.do("disputes", "vote", pick(data, voters if mostly(data) else ACTORS), number, guilty)

    @rule(data=st.data())
    def dispute_or_close(self, data: st.DataObject) -> None:
        cases = self.ledger.disputes.cases
        jailed = [i for i, case in enumerate(cases) if case.status is CaseStatus.JAILED]
        if jailed and mostly(data, 3):
            self.do("disputes", "dispute", pick(data, ACTORS), pick(data, jailed))
        else:
            self.do("disputes", "close", pick(data, ACTORS), pick(data, range(len(cases) + 1)))

    @rule(data=st.data())
    def set_dispute_parameters(self, data: st.DataObject) -> None:
        values = pick(data, [(10**19, 5000, 5, 1), (1, 1, 1, 2), (10**20, 2000, 16, 4), (0, 1, 1, 1), (1, 5001, 1, 1)])
        self.do("disputes", "set_parameters", OWNER, *values)

    # --- what must stay true of the proofs ---

    def bound_of_barred_leaves(self) -> None:
        for (gateway, model_id, epoch), tree in self.trees.items():
            c = self.ledger.settlement.checkpoint(gateway, model_id, epoch)
            assert c.barred_units + c.proven_units <= c.total_units
            assert c.status is not CheckpointStatus.NONE
            assert all(leaf_hash(gateway, leaf.provider, model_id, epoch, leaf.units) for leaf in tree.leaves)
