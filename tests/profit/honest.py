"""Honest parties, by the decisions of the real software: what they sign, accept, wait for, post, challenge and claim."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from chain.primitives import key_of
from mesh.payment.settlement.windows import MAX_RANGE
from tests.chain.spec.settlement_state import ChallengeStatus, CheckpointStatus
from tests.profit.world import BLOCKS, DELAY, PRICE, World, account

INCREMENT: Final = 10
"""Tokens that a developer promises ahead of what it has received."""
CREDIT: Final = 10 * BLOCKS
"""Units that a provider works without a voucher."""
LINE: Final = 3_000 * PRICE
"""Least line that a gateway gives a provider that it uses."""
KEPT: Final = 2
"""Epochs in which a gateway signs for work: the current one and the one before, until it is sealed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which of its decisions the software takes in the old way (`old_rules` turns them on one by one)."""

    blind_collector: bool = False
    next_epoch_receipt: bool = False
    grace: bool = False
    stale_facts: bool = False
    failed_is_free: bool = False
    resumed_is_free: bool = False


@dataclass(slots=True)
class Gateway:
    """An honest gateway: its account, its id and its signer have one name."""

    world: World
    name: str
    rules: Rules = field(default_factory=Rules)
    accepted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    charged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    verified: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    """Units by provider and model that tokens which came bear out, and that no voucher is signed for yet."""
    receipted: dict[tuple[str, int, int], int] = field(default_factory=lambda: defaultdict(int))
    vouched: dict[tuple[str, int, int], int] = field(default_factory=lambda: defaultdict(int))
    used: dict[tuple[str, int], int] = field(default_factory=dict)
    """Epoch in which a provider of a model was used last."""
    claimed: int = 0

    # --- developers ---

    def pay(self, developer: str, amount: int) -> bool:
        """A developer's voucher, signed by itself: taken as far as its reservation here covers it."""
        escrow, key = self.world.ledger.escrow, key_of(self.name)
        payer = account(developer).address
        backing = escrow.available(payer, key) + escrow.redeemed(payer, key)
        if not self.accepted[developer] < amount <= backing:
            return False
        self.accepted[developer] = amount
        return True

    def affordable(self, developer: str, price: int) -> int:
        """Tokens that the developer has paid for ahead."""
        escrow, key = self.world.ledger.escrow, key_of(self.name)
        payer = account(developer).address
        backing = escrow.available(payer, key) + escrow.redeemed(payer, key)
        left = min(self.accepted[developer], backing) - self.charged[developer]
        return max(0, left) // price if price else 1_000

    def deliver(self, developer: str, provider: str, model_id: int, tokens: int, *, failed: bool = False) -> None:
        """Tokens came from a provider and went to the developer, who is charged for each as it comes."""
        price = self.world.ledger.models.price_at(model_id, self.world.epoch)
        if not (failed and self.rules.failed_is_free):
            self.charged[developer] += tokens * price
        self.verified[provider, model_id] += tokens * BLOCKS
        self.used[provider, model_id] = self.world.epoch

    # --- providers ---

    def serves(self, provider: str) -> bool:
        """Whether we send work to a provider: the chain calls it eligible."""
        return self.world.ledger.providers.is_eligible(provider, self.world.block)

    def receipt(self, provider: str, model_id: int, epoch: int, units: int) -> int | None:
        """Units of a voucher for what a receipt claims in all, as far as our own count bears it out."""
        now = self.world.epoch
        latest = now + 1 if self.rules.next_epoch_receipt else now
        if not now - 1 <= epoch <= latest or (provider, model_id) not in self.used:
            return None
        if epoch < now and (self.name, model_id, epoch) in self.world.posted:
            return None  # sealed
        if not self.rules.stale_facts and not self.serves(provider):
            return None
        slot = provider, model_id, epoch
        self.receipted[slot] = max(self.receipted[slot], units)
        bears = self.verified[provider, model_id]
        if self.rules.grace:
            bears += 1 << 20
        more = min(self.receipted[slot] - self.vouched[slot], bears)
        if more <= 0:
            return None
        self.vouched[slot] += more
        self.verified[provider, model_id] = max(0, self.verified[provider, model_id] - more)
        return self.vouched[slot]

    # --- settlement ---

    def round(self) -> None:
        """What is due now."""
        world = self.world
        epoch = world.epoch
        self._answer()
        if epoch > 1:
            self._redeem()
            for model_id in sorted({model for _, model, past in self.vouched if past == epoch - 1}):
                if (self.name, model_id, epoch - 1) not in world.posted:
                    self._post(model_id, epoch - 1)
        self._fund_lines()
        last = epoch - DELAY
        if last > self.claimed:
            first = max(1, last - MAX_RANGE + 1)
            if any(world.ledger.settlement.gateway_share(key_of(self.name), each) for each in range(first, last + 1)):
                world.do("gateway_staking", "claim_rewards", self.name, self.name, first, last)
            self.claimed = last

    def _redeem(self) -> None:
        for developer, amount in self.accepted.items():
            payer = account(developer).address
            if amount > self.world.ledger.escrow.redeemed(payer, key_of(self.name)):
                voucher, signature = self.world.payment(developer, developer, self.name, amount)
                self.world.tries("escrow", "redeem", self.name, voucher, signature)

    def _post(self, model_id: int, epoch: int) -> None:
        world, ledger = self.world, self.world.ledger
        leaves = [
            (provider, units)
            for (provider, model, past), units in sorted(self.vouched.items())
            if model == model_id and past == epoch and units
        ]
        total = sum(units for _, units in leaves)
        cover = ledger.escrow.credit_of(key_of(self.name)) + ledger.gateway_staking.spare_stake(key_of(self.name))
        if ledger.models.fee_for(model_id, epoch, total) > cover:
            affordable = min(total, ledger.models.units_for(model_id, epoch, cover))
            leaves = [(provider, units * affordable // total) for provider, units in leaves]
            leaves = [(provider, units) for provider, units in leaves if units]
        if leaves:
            world.post(self.name, self.name, model_id, epoch, leaves, shown=True)

    def _answer(self) -> None:
        world, key = self.world, key_of(self.name)
        for number, challenge in enumerate(world.ledger.settlement.challenges()):
            if challenge.gateway != key or challenge.status is not ChallengeStatus.OPEN:
                continue
            posted = world.posted.get((self.name, challenge.model_id, challenge.epoch))
            units = leaf_of(posted.tree.leaves, challenge.provider) if posted else 0
            if posted and units:
                proof = posted.tree.proof(challenge.provider)
                world.tries("settlement", "answer_omission", self.name, number, units, proof)

    def _fund_lines(self) -> None:
        world, staking = self.world, self.world.ledger.gateway_staking
        for (provider, _), last in self.used.items():
            line = staking.line_of(key_of(self.name), key_of(provider))
            missing = LINE - line.amount + line.thawing
            if last >= world.epoch - 1 and 0 < missing <= staking.spare_stake(key_of(self.name)):
                world.tries("gateway_staking", "fund_lines", self.name, self.name, [provider], [missing])


def leaf_of(leaves: tuple[object, ...], provider: bytes) -> int:
    """Units of the largest leaf of a provider; 0 where it has none."""
    return max((leaf.units for leaf in leaves if leaf.provider == provider), default=0)  # type: ignore[attr-defined]


@dataclass(slots=True)
class Provider:
    """An honest provider of one model: its account, its id and its signer have one name."""

    world: World
    name: str
    model_id: int
    rules: Rules = field(default_factory=Rules)
    held: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    """Units of our highest voucher by gateway and epoch."""
    unpaid: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Units worked for a gateway that no voucher which counts pays for."""
    safe: set[tuple[str, int]] = field(default_factory=set)
    proven: set[tuple[str, int]] = field(default_factory=set)

    def room(self, gateway: str) -> int:
        """Tokens that we work for a gateway now without another voucher."""
        if not self.rules.stale_facts and not self.world.ledger.gateways.is_eligible(gateway, self.world.block):
            return 0
        return max(0, CREDIT - self.unpaid[gateway]) // BLOCKS

    def worked(self, gateway: str, tokens: int) -> None:
        self.unpaid[gateway] += tokens * BLOCKS

    def voucher(self, gateway: str, epoch: int, units: int, signer: str) -> None:
        """Take a voucher: it is kept, and counts as far as the line for us covers all that is not safe yet."""
        world, ledger = self.world, self.world.ledger
        if not world.epoch - 1 <= epoch <= world.epoch or units <= self.held[gateway, epoch]:
            return
        if ledger.gateways.signer_at(key_of(gateway), epoch) != account(signer).address:
            return
        gained = units - self.held[gateway, epoch]
        self.held[gateway, epoch] = units
        if not self.rules.blind_collector:
            exposure = sum(
                ledger.models.fee_for(self.model_id, past, held)
                for (other, past), held in self.held.items()
                if other == gateway and (other, past) not in self.safe
            )
            short = exposure - ledger.gateway_staking.guaranteed(key_of(gateway), key_of(self.name))
            if short > 0:
                price = ledger.models.price_at(self.model_id, epoch)
                gained = max(0, gained - (-(-short * BLOCKS // price) if price else 0))
        self.unpaid[gateway] = max(0, self.unpaid[gateway] - gained)

    def round(self) -> None:
        """What is due now."""
        for gateway, epoch in list(self.held):
            if epoch < self.world.epoch and self.held[gateway, epoch]:
                self._slot(gateway, epoch)
        if self.world.ledger.settlement.payments_of(account(self.name).address):
            self.world.do("settlement", "withdraw_payments", self.name)

    def _slot(self, gateway: str, epoch: int) -> None:
        world, settlement = self.world, self.world.ledger.settlement
        units, now, key = self.held[gateway, epoch], world.epoch, key_of(self.name)
        posted = world.posted.get((gateway, self.model_id, epoch))
        work = key_of(gateway), key, epoch
        voucher, signature = world.contribution(self._signer(gateway, epoch), gateway, self.name, self.model_id, epoch, units)
        if settlement.checkpoint(key_of(gateway), self.model_id, epoch).status is CheckpointStatus.NONE:
            if epoch + 2 <= now <= epoch + DELAY:
                world.tries("settlement", "challenge_omission", self.name, voucher, signature, 0, ())
        elif posted is not None:
            shown = posted.shown or settlement.shown_units(*work) > 0
            leaf = leaf_of(posted.tree.leaves, key) if shown else None
            if leaf and leaf < units and now <= epoch + DELAY:
                proof = posted.tree.proof(key)
                world.tries("settlement", "challenge_omission", self.name, voucher, signature, leaf, proof)
            if leaf:
                if leaf >= units:
                    self.safe.add((gateway, epoch))
                self._prove(gateway, epoch, leaf)
            elif (leaf == 0 or now >= epoch + 2) and now <= epoch + DELAY - 1:
                world.tries("settlement", "open_omission_challenge", self.name, voucher, signature)
        for number, challenge in enumerate(settlement.challenges()):
            is_ours = (challenge.gateway, challenge.provider, challenge.epoch) == work
            if is_ours and challenge.status is ChallengeStatus.OPEN and now > challenge.answer_by:
                world.tries("settlement", "resolve_challenge", self.name, number)
        if settlement.compensated_units(*work) >= units:
            self.safe.add((gateway, epoch))
        if settlement.debt_units(*work):
            world.tries("settlement", "collect_debt", self.name, gateway, self.name, epoch)

    def _prove(self, gateway: str, epoch: int, leaf: int) -> None:
        world = self.world
        if world.epoch < epoch + DELAY or (gateway, epoch) in self.proven:
            return
        proof = world.posted[gateway, self.model_id, epoch].tree.proof(key_of(self.name))
        if world.tries("settlement", "prove_contribution_for", self.name, gateway, self.name, epoch, leaf, proof):
            self.proven.add((gateway, epoch))
            world.tries(f"pool {self.model_id}", "claim_rewards", self.name, self.name, epoch, epoch)

    def _signer(self, gateway: str, epoch: int) -> str:
        return self.world.signers.get((gateway, epoch), self.world.owners.get(gateway, gateway))


@dataclass(slots=True)
class Developer:
    """An honest developer: pays for what it has received, and one increment ahead."""

    world: World
    name: str
    spent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    signed: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def receive(self, gateway: str, tokens: int, price: int) -> None:
        self.spent[gateway] += tokens * price

    def promise(self, gateway: str, price: int) -> int:
        """The cumulative amount that it has signed now."""
        key = key_of(gateway)
        escrow, payer = self.world.ledger.escrow, account(self.name).address
        backing = escrow.available(payer, key) + escrow.redeemed(payer, key)
        self.signed[gateway] = max(self.signed[gateway], min(backing, self.spent[gateway] + INCREMENT * price))
        return self.signed[gateway]
