"""Rules of the state machines about work: vouchers, checkpoints, proofs, pots, challenges."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chain.merkle import ContributionTree, Leaf, Proof, Sibling
from chain.primitives import Address, Bytes32, key_of
from chain.vouchers import CheckpointCommitment, ContributionVoucher, Domain, Message, digest, sign
from tests.chain.machine_accounts import Accounts, fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, OWNER, PROVIDERS, SIGNING, action, mostly, pick
from tests.chain.spec.settlement_state import ChallengeStatus


class Work(Accounts):
    """`promised`: units by gateway, provider and epoch that the gateway has signed. `trees`: what was posted."""

    def signed(self, domain: Domain, message: Message, signer: Address) -> bytes:
        """By the key that is asked for, or, if the test has no such key, by another."""
        return sign(digest(domain, message), SIGNING.get(signer, next(iter(SIGNING.values()))))

    def model_of(self, provider: str) -> int:
        found = self.ledger.providers.by_key(key_of(provider))
        return found.model_id if found else 1

    # --- the ordinary way ---

    @action(2)
    def serve(self, rng: Random) -> None:
        """Work of this epoch: the gateway's voucher grows. No transaction."""
        units = rng.randint(1, 400)
        key = (pick(rng, GATEWAYS), pick(rng, PROVIDERS), self.epoch)
        self.promised[key] = self.promised.get(key, 0) + units

    @action(8)
    def serve_and_post(self, rng: Random) -> None:
        """A whole epoch of work for one gateway, posted in time."""
        gateway = pick(rng, GATEWAYS[:2])
        for provider in PROVIDERS[:3]:
            key = (gateway, provider, self.epoch)
            self.promised[key] = self.promised.get(key, 0) + rng.randint(1, 200)
        self.next_epoch(Random(1))
        for model_id in (1, 2):
            self.post(rng, gateway, model_id, self.epoch - 1)

    @action(2)
    def post_something(self, rng: Random) -> None:
        epoch = self.epoch - 1 if mostly(rng) else pick(rng, [self.epoch, max(self.epoch - 2, 0)])
        self.post(rng, pick(rng, GATEWAYS), self.model(rng), epoch)

    def post(self, rng: Random, gateway: str, model_id: int, epoch: int) -> None:
        """Mostly the truth; sometimes a leaf less, a leaf too many, other units, or another total."""
        key, models = key_of(gateway), self.ledger.models
        leaves = [
            Leaf(key_of(provider), units)
            for (by, provider, when), units in self.promised.items()
            if (by, when) == (gateway, epoch) and self.model_of(provider) == model_id
        ]
        if not mostly(rng, 4):
            leaves = leaves[1:]
        if not mostly(rng, 4):
            leaves = [replace(leaf, units=max(leaf.units // 2, 0)) for leaf in leaves]
        if not leaves or not mostly(rng, 4):
            stranger = pick(rng, ["nobody", *PROVIDERS])
            if key_of(stranger) not in {leaf.provider for leaf in leaves}:
                leaves.append(Leaf(key_of(stranger), rng.choice([0, 1, 50, 2**130])))
        tree = ContributionTree(key, model_id, epoch, leaves)
        total = tree.total_units if mostly(rng, 6) else pick(rng, [0, 1, max(tree.total_units - 1, 0), 2**96])
        known = models.exists(model_id) and total < 2**200
        fees = models.fee_for(model_id, epoch, total) if known else 0
        fees += 0 if mostly(rng, 10) else 1
        root = tree.root if mostly(rng, 20) else bytes(32)
        signer = self.ledger.gateways.signer_at(key, self.epoch)
        caller = self.caller(rng, signer)
        arguments = (model_id, epoch, root, total, fees, fresh(self.transactions))
        if self.do("settlement", "post_checkpoint", caller, *arguments) and caller == signer:
            self.trees[key, model_id, epoch] = tree

    def a_leaf(self, rng: Random) -> tuple[ContributionTree, Leaf, Proof]:
        """A leaf of a posted tree with its proof; rarely spoilt."""
        tree = self.trees[pick(rng, sorted(self.trees))]
        leaf = pick(rng, tree.leaves)
        proof = tree.proof(leaf.provider)
        return tree, leaf, self.spoilt(rng, proof)

    def spoilt(self, rng: Random, proof: Proof) -> Proof:
        """The proof, or rarely one with a sum, a hash or a sibling changed, that can hold for no tree."""
        if mostly(rng, 12):
            return proof
        if not proof:
            return (Sibling(bytes(32), pick(rng, [0, 1, 2**96 - 1, 2**96, 2**256 - 1])),)
        at = rng.randrange(len(proof))
        hashed, units = proof[at]
        changed = pick(rng, [Sibling(hashed, units + 1), Sibling(bytes(32), units), Sibling(hashed, 2**96)])
        return pick(
            rng, [(*proof[:at], changed, *proof[at + 1 :]), (*proof, Sibling(bytes(32), 0)), proof[1:], proof * 65]
        )

    def name_of(self, key: Bytes32) -> str:
        return next((name for name in (*PROVIDERS, *GATEWAYS) if key_of(name) == key), "nobody")

    @action(5)
    def prove(self, rng: Random) -> None:
        if not self.trees:
            return
        tree, leaf, proof = self.a_leaf(rng)
        provider, caller = self.name_of(leaf.provider), pick(rng, ACTORS)
        units = leaf.units if mostly(rng, 12) else leaf.units + 1
        arguments = (provider, tree.epoch, units, proof)
        if mostly(rng, 3):
            self.do("settlement", "prove_contribution", caller, *arguments)
        else:
            self.do("settlement", "prove_contribution_for", caller, self.name_of(tree.gateway), *arguments)

    @action(7)
    def prove_all_and_claim(self, rng: Random) -> None:
        """Every leaf of a claimable epoch, then the claims. Some posted a total that is not their tree's."""
        ready = self.ledger.epochs.claimable_epoch(self.block)
        epochs = sorted({epoch for _, _, epoch in self.trees if 0 < epoch <= ready})
        if not epochs:
            return
        epoch = pick(rng, epochs)
        for tree in [tree for key, tree in self.trees.items() if key[2] == epoch]:
            for leaf in tree.leaves[:4]:
                if mostly(rng, 5):
                    arguments = (self.name_of(leaf.provider), epoch, leaf.units, tree.proof(leaf.provider))
                    self.do("settlement", "prove_contribution", ACTORS[5], *arguments)
        for provider in PROVIDERS:
            pool = f"pool {self.model_of(provider)}"
            self.do(pool, "claim_rewards", self.owner_of_provider(provider), provider, epoch, ready)

    @action(3)
    def finalize(self, rng: Random) -> None:
        back = rng.randint(-1, 3)
        epoch = max(self.ledger.epochs.claimable_epoch(self.block) - back, 0)
        self.do("settlement", "finalize", pick(rng, ACTORS), self.model(rng), epoch)

    # --- challenges ---

    def a_voucher(self, rng: Random, epoch: int | None = None) -> tuple[ContributionVoucher, bytes]:
        """One that was promised, or nearly one; signed by who signed for the gateway then."""
        recent = [
            key for key in sorted(self.promised) if (epoch is None and key[2] >= self.epoch - 6) or key[2] == epoch
        ]
        gateway, provider, when = (
            pick(rng, recent) if recent else (pick(rng, GATEWAYS), pick(rng, PROVIDERS), self.epoch)
        )
        units = self.promised.get((gateway, provider, when), 5)
        if not mostly(rng, 6):
            units = pick(rng, [0, 1, units + 3, 2**96, 2**96 - 1])
        model_id = self.model_of(provider) if mostly(rng, 12) else 1
        named = key_of(gateway if mostly(rng, 20) else "nobody")
        voucher = ContributionVoucher(named, key_of(provider), model_id, when, units)
        signer = self.ledger.gateways.signer_at(named, when)
        return voucher, self.bent(rng, self.signed(self.ledger.settlement.domain, voucher, signer))

    @action(4)
    def challenge_omission(self, rng: Random) -> None:
        voucher, signature = self.a_voucher(rng)
        tree = self.trees.get((voucher.gateway, voucher.model_id, voucher.epoch))
        units = 0
        proof: Proof = ()
        if tree is not None and mostly(rng, 12):
            mine = [leaf for leaf in tree.leaves if leaf.provider == voucher.provider]
            if mine:
                units, proof = mine[0].units, self.spoilt(rng, tree.proof(voucher.provider))
        self.do("settlement", "challenge_omission", pick(rng, ACTORS), voucher, signature, units, proof)

    @action(3)
    def open_omission(self, rng: Random) -> None:
        voucher, signature = self.a_voucher(rng)
        self.do("settlement", "open_omission_challenge", pick(rng, ACTORS), voucher, signature)

    def a_challenge(self, rng: Random) -> int:
        everyone = self.ledger.settlement.challenges()
        running = [i for i, c in enumerate(everyone) if c.status is ChallengeStatus.OPEN]
        return pick(rng, running) if running and mostly(rng) else pick(rng, range(len(everyone) + 1))

    @action(4)
    def answer(self, rng: Random) -> None:
        everyone = self.ledger.settlement.challenges()
        if not everyone and mostly(rng, 20):
            return
        number = self.a_challenge(rng)
        if number == len(everyone):
            self.do("settlement", "answer_omission", ACTORS[0], number, 1, ())
            return
        c = everyone[number]
        tree = self.trees.get((c.gateway, c.model_id, c.epoch))
        mine = [leaf for leaf in tree.leaves if leaf.provider == c.provider] if tree else []
        units, proof = (mine[0].units, self.spoilt(rng, tree.proof(c.provider))) if mine and tree else (c.units, ())
        units = units if mostly(rng, 20) else 0
        self.do("settlement", "answer_omission", pick(rng, ACTORS), number, units, proof)

    @action(3)
    def resolve(self, rng: Random) -> None:
        if not self.ledger.settlement.challenges() and mostly(rng, 20):
            return
        self.do("settlement", "resolve_challenge", pick(rng, ACTORS), self.a_challenge(rng))

    @action(4)
    def leave_a_provider_out(self, rng: Random) -> None:
        """A whole epoch of work that the gateway posts without one leaf, or not at all, and what follows from it."""
        gateway, provider = pick(rng, GATEWAYS[:2]), pick(rng, PROVIDERS[:3])
        key, epoch, model_id = key_of(gateway), self.epoch, self.model_of(provider)
        settlement = self.ledger.settlement
        # Sometimes more than line, credit and stake together can pay.
        cover = settlement.cover(key, key_of(provider))
        enough = self.ledger.models.units_for(model_id, epoch, cover) if self.ledger.models.exists(model_id) else 0
        units = pick(rng, [rng.randint(1, 300), max(1, enough // 3), max(1, 2 * enough)])
        voucher = ContributionVoucher(key, key_of(provider), model_id, epoch, min(units, 2**96 - 1))
        self.next_epoch(Random(1))
        if mostly(rng, 4):
            tree = ContributionTree(key, model_id, epoch, [Leaf(key_of("nobody"), 3)])
            if not mostly(rng, 3):
                tree = ContributionTree(key, model_id, epoch, [Leaf(key_of(provider), max(1, units // 5))])
            fees = self.ledger.models.fee_for(model_id, epoch, tree.total_units)
            caller = self.ledger.gateways.signer_at(key, self.epoch)
            arguments = (model_id, epoch, tree.root, tree.total_units, fees, fresh(1))
            if self.do("settlement", "post_checkpoint", caller, *arguments):
                self.trees[key, model_id, epoch] = tree
        signature = self.signed(settlement.domain, voucher, self.ledger.gateways.signer_at(key, epoch))
        challenger, number = pick(rng, ACTORS), len(settlement.challenges())
        self.do("settlement", "open_omission_challenge", challenger, voucher, signature)
        if number == len(settlement.challenges()):
            self.next_epoch(Random(1))
            self.do("settlement", "challenge_omission", challenger, voucher, signature, 0, ())
        elif mostly(rng, 4):
            self.thaw_or_release_line(rng)
            last = settlement.challenges()[number].answer_by
            self.go_to(last + 1, early=not mostly(rng, 4))
            self.do("settlement", "resolve_challenge", challenger, number)
        if settlement.debt_of(key) and mostly(rng, 4):
            self.do("gateway_staking", "unstake_for_gateway", self.owner_of_gateway(gateway), gateway)
            amount = pick(rng, [1, 50_000 * self.scale, settlement.debt_of(key) // 2])
            if 0 < amount < 10**26:
                self.do("escrow", "top_up_credit", challenger, gateway, amount)
                self.do("gateway_staking", "stake_for_gateway", self.owner_of_gateway(gateway), gateway, amount)
            self.do("settlement", "collect_debt", pick(rng, ACTORS), gateway, provider, epoch)

    @action(2)
    def collect_debt(self, rng: Random) -> None:
        debts = [work for work, units in self.ledger.settlement.all_debt_units().items() if units]
        gateway, provider, epoch = (pick(rng, GATEWAYS), pick(rng, PROVIDERS), self.epoch)
        if debts and mostly(rng):
            keys = pick(rng, debts)
            gateway, provider, epoch = self.name_of(keys[0]), self.name_of(keys[1]), keys[2]
        self.do("settlement", "collect_debt", pick(rng, ACTORS), gateway, provider, epoch)

    def a_commitment(self, rng: Random) -> tuple[CheckpointCommitment, Address]:
        keys = [key for key in sorted(self.trees) if key[2] >= self.epoch - 6]
        gateway, model_id, epoch = pick(rng, keys) if keys else (key_of("g0"), 1, self.epoch)
        c = self.ledger.settlement.checkpoint(gateway, model_id, epoch)
        units = c.total_units + pick(rng, [0, 1, 2])
        commitment = CheckpointCommitment(gateway, model_id, epoch, c.root, units, c.total_fees, fresh(units))
        return commitment, self.ledger.gateways.signer_at(gateway, epoch)

    @action(2)
    def challenge_equivocation(self, rng: Random) -> None:
        (a, signer), domain = self.a_commitment(rng), self.ledger.settlement.domain
        if mostly(rng, 2):
            signature = self.bent(rng, self.signed(domain, a, signer))
            self.do("settlement", "challenge_posted", pick(rng, ACTORS), a, signature)
            return
        b = replace(a, total_units=a.total_units + pick(rng, [0, 1, 1, 1]), epoch=a.epoch + (not mostly(rng)))
        signatures = [self.bent(rng, self.signed(domain, commitment, signer)) for commitment in (a, b)]
        arguments = (a, signatures[0], b, signatures[1])
        self.do("settlement", "challenge_equivocation", pick(rng, ACTORS), *arguments)

    @action()
    def set_parameters(self, rng: Random) -> None:
        share, burn = pick(rng, [0, 1000, 2000, 2001]), pick(rng, [99, 100, 500, 2000])
        rest = pick(rng, [(5000, 1000, 0, 7, 100), (20_000, 10_000, 5000, 6, 5000), (4999, 1, 1, 1, 0)])
        self.do("settlement", "set_parameters", OWNER if mostly(rng) else ACTORS[0], share, burn, *rest)
