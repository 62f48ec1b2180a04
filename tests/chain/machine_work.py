"""Rules of the state machines about work: vouchers, checkpoints, proofs, pots, challenges."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chain.merkle import ContributionTree, Leaf
from chain.primitives import Address, Bytes32, key_of
from chain.vouchers import (
    CheckpointCommitment,
    ContributionReceipt,
    ContributionVoucher,
    Domain,
    Message,
    digest,
    sign,
)
from tests.chain.machine_accounts import Accounts, fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, OWNER, PROVIDERS, SIGNING, action, mostly, pick
from tests.chain.spec.settlement_state import ChallengeKind, ChallengeStatus


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

    def a_leaf(self, rng: Random) -> tuple[ContributionTree, Leaf, tuple[Bytes32, ...]]:
        """A leaf of a posted tree with its proof; rarely spoilt."""
        tree = self.trees[pick(rng, sorted(self.trees))]
        leaf = pick(rng, tree.leaves)
        proof = tree.proof(leaf.provider)
        if not mostly(rng, 12):
            proof = (*proof, bytes(32))
        return tree, leaf, proof

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
        """Every leaf of a claimable epoch, then the claims."""
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
        proof: tuple[Bytes32, ...] = ()
        if tree is not None and mostly(rng, 12):
            mine = [leaf for leaf in tree.leaves if leaf.provider == voucher.provider]
            if mine:
                units, proof = mine[0].units, tree.proof(voucher.provider)
        self.do("settlement", "challenge_omission", pick(rng, ACTORS), voucher, signature, units, proof)

    @action(3)
    def open_omission(self, rng: Random) -> None:
        voucher, signature = self.a_voucher(rng)
        self.do("settlement", "open_omission_challenge", pick(rng, ACTORS), voucher, signature)

    @action(3)
    def open_leaf(self, rng: Random) -> None:
        recent = [key for key in sorted(self.trees) if key[2] >= self.epoch - 6]
        if not recent:
            return
        tree = self.trees[pick(rng, recent)]
        leaf = pick(rng, tree.leaves)
        proof = tree.proof(leaf.provider) if mostly(rng, 12) else ()
        arguments = (tree.gateway, tree.model_id, tree.epoch, leaf, proof)
        self.do("settlement", "open_leaf_challenge", pick(rng, ACTORS), *arguments)

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
        if (c.kind is ChallengeKind.OMISSION) == mostly(rng, 12):
            units, proof = (mine[0].units, tree.proof(c.provider)) if mine and tree else (c.units, ())
            self.do("settlement", "answer_omission", pick(rng, ACTORS), number, units, proof)
            return
        units = c.units if mostly(rng, 6) else max(c.units - 1, 0)
        receipt = ContributionReceipt(c.gateway, c.provider, c.model_id, c.epoch, units)
        signer = self.ledger.providers.signer_at(c.provider, c.epoch)
        signature = self.bent(rng, self.signed(self.ledger.settlement.domain, receipt, signer))
        self.do("settlement", "answer_leaf", pick(rng, ACTORS), number, units, signature)

    @action(3)
    def resolve(self, rng: Random) -> None:
        if not self.ledger.settlement.challenges() and mostly(rng, 20):
            return
        self.do("settlement", "resolve_challenge", pick(rng, ACTORS), self.a_challenge(rng))

    @action(3)
    def challenge_every_leaf(self, rng: Random) -> None:
        """All leaves of one slot, mostly unanswered: a bad tree is punished once, however many leaves it has."""
        delay = self.ledger.epochs.epoch_reward_delay
        recent = [key for key in sorted(self.trees) if key[2] >= self.epoch - delay + 2]
        if not recent:
            return
        tree = self.trees[pick(rng, recent)]
        first = len(self.ledger.settlement.challenges())
        for leaf in tree.leaves:
            slot = (tree.gateway, tree.model_id, tree.epoch)
            self.do("settlement", "open_leaf_challenge", ACTORS[5], *slot, leaf, tree.proof(leaf.provider))
        if not mostly(rng, 3):
            self.answer(rng)
        self.block = max(self.block, self.ledger.epochs.epoch_start_block(tree.epoch + delay))
        for number in range(first, len(self.ledger.settlement.challenges())):
            self.do("settlement", "resolve_challenge", pick(rng, ACTORS), number)

    @action(3)
    def challenge_a_sum(self, rng: Random) -> None:
        recent = [key for key in sorted(self.trees) if key[2] >= self.epoch - 6]
        if not recent:
            return
        lying = [
            key for key in recent if self.ledger.settlement.checkpoint(*key).total_units != self.trees[key].total_units
        ]
        key = pick(rng, lying if lying and mostly(rng, 4) else recent)
        tree, caller = self.trees[key], pick(rng, ACTORS)
        if mostly(rng, 2):
            leaves = tree.leaves if mostly(rng) else pick(rng, [(), tree.leaves[::-1], tree.leaves[1:]])
            self.do("settlement", "challenge_sum", caller, *key, leaves)
            return
        wanted = set(rng.choices([leaf.provider for leaf in tree.leaves], k=rng.randint(1, 3)))
        leaves, proof = tree.multiproof(wanted)
        given, flags = proof.proof, proof.flags
        if not mostly(rng):
            leaves, given, flags = pick(rng, [(leaves[::-1], given, flags), (leaves, given[1:], flags), ((), (), ())])
        self.do("settlement", "challenge_sum_overflow", caller, *key, leaves, given, flags)

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
    def challenge_overdraw(self, rng: Random) -> None:
        """Mostly vouchers for far more than the gateway has, in a slot of this epoch or the last."""
        gateway, epoch = pick(rng, GATEWAYS), max(self.epoch - pick(rng, [0, 1]), 0)
        model_id = pick(rng, [1, 2])
        named = sorted(key_of(p) for p in PROVIDERS if self.model_of(p) == model_id)[: pick(rng, [1, 2])]
        units = pick(rng, [1, 1, 1, 2**90])
        vouchers = [ContributionVoucher(key_of(gateway), provider, model_id, epoch, units) for provider in named]
        if not mostly(rng):
            vouchers = vouchers[::-1]
        signer = self.ledger.gateways.signer_at(key_of(gateway), epoch)
        signatures = [self.bent(rng, self.signed(self.ledger.settlement.domain, v, signer)) for v in vouchers]
        signatures = signatures if mostly(rng) else signatures[1:]
        self.do("settlement", "challenge_overdraw", pick(rng, ACTORS), vouchers, signatures)

    @action()
    def set_parameters(self, rng: Random) -> None:
        share, burn = pick(rng, [0, 1000, 2000, 2001]), pick(rng, [99, 100, 500, 2000])
        rest = pick(rng, [(5000, 1000, 0, 7, 5), (20_000, 10_000, 5000, 6, 10**19), (4999, 1, 1, 1, 0)])
        self.do("settlement", "set_parameters", OWNER if mostly(rng) else ACTORS[0], share, burn, *rest)
