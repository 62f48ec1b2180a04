"""Rules of the state machines about challenges: omissions, their debts, two leaves of one, and equivocation."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from chain.merkle import ContributionTree, Leaf, Proof, Sibling, leaf_hash, parent
from chain.primitives import Address, key_of
from chain.vouchers import CheckpointCommitment, ContributionVoucher
from tests.chain.machine_accounts import fresh
from tests.chain.machine_base import ACTORS, GATEWAYS, PROVIDERS, action, mostly, pick
from tests.chain.machine_work import Work
from tests.chain.spec.settlement_state import ChallengeStatus


class Challenges(Work):
    """After the work: what a checkpoint left out."""

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
        """Work that a gateway posts without its leaf, with too small a one or not at all, and what follows."""
        gateway, provider, challenger = pick(rng, GATEWAYS[:2]), pick(rng, PROVIDERS[:3]), pick(rng, ACTORS)
        key, epoch, model_id = key_of(gateway), self.epoch, self.model_of(provider)
        settlement = self.ledger.settlement
        # Sometimes more than line, credit and stake together can pay.
        enough = self.ledger.models.units_for(model_id, epoch, settlement.cover(key, key_of(provider)))
        units = pick(rng, [rng.randint(1, 300), max(1, enough // 3), max(1, 2 * enough)])
        voucher = ContributionVoucher(key, key_of(provider), model_id, epoch, min(units, 2**96 - 1))
        signature = self.signed(settlement.domain, voucher, self.ledger.gateways.signer_at(key, epoch))
        self.next_epoch(Random(1))
        leaf = Leaf(key_of(provider), pick(rng, [max(1, units // 5), min(units, 40)]))
        tree = ContributionTree(key, model_id, epoch, [leaf] if mostly(rng, 3) else [Leaf(key_of("nobody"), 3)])
        if mostly(rng, 4):
            self.post_exactly(tree)
        number = len(settlement.challenges())
        self.do("settlement", "open_omission_challenge", challenger, voucher, signature)
        if number == len(settlement.challenges()):
            self.next_epoch(Random(1))
            self.do("settlement", "challenge_omission", challenger, voucher, signature, 0, ())
        else:
            if mostly(rng, 3):
                self.challenge_again(rng, voucher)
            if mostly(rng, 2):
                self.thaw_or_release_line(rng)
            last = settlement.challenges()[number].answer_by
            if tree.leaves[0] == leaf and mostly(rng, 2):
                self.go_to(last, early=not mostly(rng, 3))
                self.do(
                    "settlement", "answer_omission", pick(rng, ACTORS), number, leaf.units, tree.proof(leaf.provider)
                )
            self.go_to(last + 1, early=not mostly(rng, 4))
            self.do("settlement", "resolve_challenge", challenger, number)
        self.pay_a_debt(rng, gateway, provider, epoch)

    def challenge_again(self, rng: Random, voucher: ContributionVoucher) -> None:
        """The same work with as many units, fewer or more, asked for or shown."""
        more = pick(rng, [0, 0, -1, 1, 500])
        other = replace(voucher, cumulative_units=min(max(1, voucher.cumulative_units + more), 2**96 - 1))
        signer = self.ledger.gateways.signer_at(voucher.gateway, voucher.epoch)
        signature = self.signed(self.ledger.settlement.domain, other, signer)
        if mostly(rng, 2):
            self.do("settlement", "open_omission_challenge", pick(rng, ACTORS), other, signature)
            return
        tree = self.trees.get((voucher.gateway, voucher.model_id, voucher.epoch))
        leaf = next((leaf for leaf in tree.leaves if leaf.provider == voucher.provider), None) if tree else None
        units, proof = (leaf.units, tree.proof(leaf.provider)) if tree and leaf else (0, ())
        self.do("settlement", "challenge_omission", pick(rng, ACTORS), other, signature, units, proof)

    def pay_a_debt(self, rng: Random, gateway: str, provider: str, epoch: int) -> None:
        """Money that comes late, by whichever way, and the debt that takes it."""
        key, settlement = key_of(gateway), self.ledger.settlement
        if not settlement.debt_of(key):
            return
        self.do("gateway_staking", "unstake_for_gateway", self.owner_of_gateway(gateway), gateway)
        amount = pick(rng, [1, 50_000 * self.scale, settlement.debt_of(key) // 2])
        if 0 < amount < 10**26:
            self.do("escrow", "top_up_credit", pick(rng, ACTORS), gateway, amount)
            self.do("gateway_staking", "stake_for_gateway", self.owner_of_gateway(gateway), gateway, amount)
        self.do("settlement", "collect_debt", pick(rng, ACTORS), gateway, provider, epoch)

    @action(3)
    def two_leaves_of_one(self, rng: Random) -> None:
        """A tree with two leaves of one provider, and a total that is its sum or a lie; proven in either order."""
        gateway, provider = pick(rng, GATEWAYS[:2]), pick(rng, PROVIDERS[:3])
        key, epoch, model_id = key_of(gateway), self.epoch, self.model_of(provider)
        counts = (rng.randint(1, 50), rng.randint(51, 200))
        small, large = (Sibling(leaf_hash(key, key_of(provider), model_id, epoch, units), units) for units in counts)
        root, total = parent(small, large)
        total = total if mostly(rng, 6) else max(counts)
        self.next_epoch(Random(1))
        fees = self.ledger.models.fee_for(model_id, epoch, total)
        caller = self.ledger.gateways.signer_at(key, self.epoch)
        if not self.do("settlement", "post_checkpoint", caller, model_id, epoch, root, total, fees, fresh(3)):
            return
        proofs = [(small.units, (large,)), (large.units, (small,))]
        rng.shuffle(proofs)
        voucher = ContributionVoucher(key, key_of(provider), model_id, epoch, pick(rng, [60, 200, 260]))
        signature = self.signed(self.ledger.settlement.domain, voucher, self.ledger.gateways.signer_at(key, epoch))
        for units, proof in proofs:
            if mostly(rng, 2):
                self.do("settlement", "challenge_omission", pick(rng, ACTORS), voucher, signature, units, proof)
        self.go_to(epoch + self.ledger.epochs.epoch_reward_delay)
        for units, proof in (*proofs, proofs[0]):
            self.do("settlement", "prove_contribution", pick(rng, ACTORS), provider, epoch, units, proof)

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
        for _ in range(pick(rng, [1, 1, 2])):
            self.do("settlement", "challenge_equivocation", pick(rng, ACTORS), *arguments)
