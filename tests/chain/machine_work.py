"""Rules of the state machines about work: vouchers, checkpoints, proofs, pots, challenges."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chain.merkle import ContributionTree, Leaf, Proof, Sibling
from chain.primitives import Address, Bytes32, key_of
from chain.vouchers import Domain, Message, digest, sign
from tests.chain.machine_accounts import Accounts, fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, OWNER, PROVIDERS, SIGNING, action, mostly, pick


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

    def post_exactly(self, tree: ContributionTree) -> bool:
        """The tree as it is, by who signs for its gateway; whether that was accepted."""
        fees = self.ledger.models.fee_for(tree.model_id, tree.epoch, tree.total_units)
        caller = self.ledger.gateways.signer_at(tree.gateway, self.epoch)
        arguments = (tree.model_id, tree.epoch, tree.root, tree.total_units, fees, fresh(tree.total_units))
        accepted = bool(self.do("settlement", "post_checkpoint", caller, *arguments))
        if accepted:
            self.trees[tree.gateway, tree.model_id, tree.epoch] = tree
        return accepted

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

    @action()
    def set_parameters(self, rng: Random) -> None:
        share, burn = pick(rng, [0, 1000, 2000, 2001]), pick(rng, [99, 100, 500, 2000])
        rest = pick(rng, [(5000, 1000, 0, 7, 100), (20_000, 10_000, 5000, 6, 5000), (4999, 1, 1, 1, 0)])
        self.do("settlement", "set_parameters", OWNER if mostly(rng) else ACTORS[0], share, burn, *rest)
