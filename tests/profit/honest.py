"""Honest parties, by the decisions of the real software: what they sign, accept, wait for, post, challenge and claim."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from chain.primitives import MAX_UINT96, key_of
from mesh.errors import ProtocolViolation
from mesh.payment.credit.cover import Cover, Promise
from mesh.payment.credit.line import CreditLine, Pair, ReceiptClaim
from mesh.payment.credit.units import ModelPrice
from mesh.payment.credit.vouching import VoucherLine
from mesh.payment.settlement.windows import MAX_RANGE
from tests.chain.spec.settlement_state import ChallengeStatus, CheckpointStatus
from tests.profit.world import BLOCKS, DELAY, PRICE, World, account

INCREMENT: Final = 10
"""Tokens that a developer promises ahead of what it has received."""
CREDIT: Final = 10 * BLOCKS
"""Units that a provider works without a voucher."""
LINE: Final = 3_000 * PRICE
"""Least line that a gateway gives a provider that it uses."""

@dataclass(frozen=True, slots=True)
class Rules:
    """Which of its decisions the software takes in the old way (`old_rules` turns them on one by one)."""

    blind_collector: bool = False
    """Any voucher counts, whatever stands behind it."""
    next_epoch_receipt: bool = False
    """Receipts for the next epoch are signed for, and units are units, whatever they cost there."""
    grace: bool = False
    """A restarted gateway signs on the provider's word."""
    stale_facts: bool = False
    """Eligibility and keys are looked at once, when the other side introduces itself."""
    failed_is_free: bool = False
    """What came before an answer failed is not charged."""
    request_tariff: bool = False
    """A request is charged at the price at which it began."""


@dataclass(slots=True)
class Gateway:
    """An honest gateway: its account, its id and its signer have one name."""

    world: World
    name: str
    rules: Rules = field(default_factory=Rules)
    accepted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    charged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lines: dict[tuple[str, int], VoucherLine] = field(default_factory=dict)
    """By provider and model."""
    vouched: dict[tuple[str, int, int], int] = field(default_factory=lambda: defaultdict(int))
    """Units of our vouchers by provider, model and epoch: the journal."""
    used: dict[str, int] = field(default_factory=dict)
    """Epoch in which a provider was used last."""
    accepted_facts: set[str] = field(default_factory=set)
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
        at = max(1, self.world.epoch - self.rules.request_tariff)
        price = self.world.ledger.models.price_at(model_id, at)
        if not (failed and self.rules.failed_is_free):
            self.charged[developer] += tokens * price
        line = self.lines.setdefault((provider, model_id), VoucherLine(Pair(self.name, provider, model_id)))
        line.accrue(self.world.epoch, tokens * BLOCKS)
        self.used[provider] = self.world.epoch

    # --- providers ---

    def serves(self, provider: str) -> bool:
        """Whether we send work to a provider: the chain calls it eligible."""
        if self.rules.stale_facts and provider in self.accepted_facts:
            return True
        if self.world.ledger.providers.is_eligible(provider, self.world.block):
            self.accepted_facts.add(provider)
            return True
        return False

    def receipt(self, provider: str, model_id: int, epoch: int, units: int) -> int | None:
        """Units of a voucher for what a receipt claims in all, as far as our own count bears it out."""
        now, line = self.world.epoch, self.lines.get((provider, model_id))
        latest = now + 1 if self.rules.next_epoch_receipt else now
        if line is None or not now - 1 <= epoch <= latest or not self.serves(provider):
            return None
        if (self.name, model_id, epoch) in self.world.posted:
            return None  # sealed
        try:
            line.receipt(line.check_receipt(epoch, line.sequence + 1, units))
        except ProtocolViolation:
            return None
        prices = self.world.prices(model_id)
        if self.rules.next_epoch_receipt:
            prices = dict.fromkeys(prices, 1)
            line.unsigned = {min(epoch, came): units for came, units in line.unsigned.items()}
        due = line.due(epoch, prices)
        if self.rules.grace and units > line.epochs[epoch].vouched:
            self.vouched[provider, model_id, epoch] = line.epochs[epoch].vouched = min(units, 1 << 22)
            return self.vouched[provider, model_id, epoch]
        if due is None:
            return None
        line.sign(epoch, due, prices)
        self.vouched[provider, model_id, epoch] = due
        return due

    # --- settlement ---

    def round(self) -> None:
        """What is due now."""
        world = self.world
        epoch = world.epoch
        for (_, model_id), line in self.lines.items():
            line.turn(epoch, world.prices(model_id))
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
        for provider, last in self.used.items():
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
    lines: dict[str, CreditLine] = field(default_factory=dict)
    covers: dict[str, Cover] = field(default_factory=lambda: defaultdict(Cover))
    held: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    """Units of our highest voucher by gateway and epoch: the journal."""
    safe: dict[tuple[str, int], int] = field(default_factory=dict)
    proven: set[tuple[str, int]] = field(default_factory=set)
    signers: dict[tuple[str, int], str] = field(default_factory=dict)
    """Accounts whose signatures the vouchers carry, by gateway and epoch."""
    accepted_facts: dict[str, bytes] = field(default_factory=dict)
    """The key of a gateway when it introduced itself."""

    def room(self, gateway: str) -> int:
        """Tokens that we work for a gateway now without another voucher."""
        line = self._line(gateway)
        if self.world.ledger.gateways.is_eligible(gateway, self.world.block):
            self.accepted_facts.setdefault(
                gateway, self.world.ledger.gateways.signer_at(key_of(gateway), self.world.epoch)
            )
        elif not (self.rules.stale_facts and gateway in self.accepted_facts):
            return 0
        self._secure(gateway)
        return max(0, line.credit - line.unpaid) // BLOCKS

    def worked(self, gateway: str, tokens: int) -> ReceiptClaim | None:
        """Count what we did; the receipt that we send."""
        line = self._line(gateway)
        line.begin(tokens * BLOCKS)
        line.finish(tokens * BLOCKS, tokens * BLOCKS)
        return line.claim()

    def asks(self, gateway: str) -> int:
        """Units that our last receipt of this epoch says."""
        line = self._line(gateway)
        claim = line.claim()
        if claim is not None:
            return claim.units
        counts = line.epochs.get(line.epoch)
        return 0 if counts is None else counts.receipted

    def voucher(self, gateway: str, epoch: int, units: int, signer: str) -> None:
        """Take a voucher: it is kept, and counts as far as the line for us covers all that is not safe yet."""
        line = self._line(gateway)
        try:
            gained = line.check(epoch, units)
        except ProtocolViolation:
            return
        expected = self.world.ledger.gateways.signer_at(key_of(gateway), epoch)
        if self.rules.stale_facts:
            expected = self.accepted_facts.get(gateway, expected)
        if not gained or expected != account(signer).address:
            return
        self.signers[gateway, epoch] = signer
        line.accept(epoch, units)
        self.held[gateway, epoch] = max(units, self.held[gateway, epoch])
        self._secure(gateway)

    def _line(self, gateway: str) -> CreditLine:
        line = self.lines.get(gateway)
        if line is None:
            line = self.lines[gateway] = CreditLine(Pair(gateway, self.name, self.model_id), CREDIT)
        line.turn(self.world.epoch, self.world.prices(self.model_id))
        return line

    def _secure(self, gateway: str) -> None:
        guarantee = self.world.ledger.gateway_staking.guaranteed(key_of(gateway), key_of(self.name))
        if self.rules.blind_collector:
            guarantee = MAX_UINT96
        promises = {
            epoch: Promise(units, min(units, self.safe.get((gateway, epoch), 0)))
            for (other, epoch), units in self.held.items()
            if other == gateway
        }
        models = self.world.ledger.models
        tariffs = {epoch: ModelPrice(models.price_at(self.model_id, epoch), BLOCKS) for epoch in promises}
        self.lines[gateway].secure(self.covers[gateway].update(promises, guarantee, tariffs))

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
                self.safe[gateway, epoch] = max(leaf, self.safe.get((gateway, epoch), 0))
                self._prove(gateway, epoch, leaf)
            elif (leaf == 0 or now >= epoch + 2) and now <= epoch + DELAY - 1:
                world.tries("settlement", "open_omission_challenge", self.name, voucher, signature)
        for number, challenge in enumerate(settlement.challenges()):
            is_ours = (challenge.gateway, challenge.provider, challenge.epoch) == work
            if is_ours and challenge.status is ChallengeStatus.OPEN and now > challenge.answer_by:
                world.tries("settlement", "resolve_challenge", self.name, number)
        known = settlement.known_units(work)
        if known > self.safe.get((gateway, epoch), 0):
            self.safe[gateway, epoch] = known
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
        return self.signers.get((gateway, epoch), gateway)


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
