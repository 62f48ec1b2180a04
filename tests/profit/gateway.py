"""An honest gateway, by the decisions of the real software: whom it serves, what it signs, and its plan around an
epoch's end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from chain.primitives import key_of
from mesh.errors import ProtocolViolation
from mesh.payment.credit.line import EpochUnits, Pair
from mesh.payment.credit.vouching import VoucherLine
from mesh.payment.settlement import gateway_plan as plan
from mesh.payment.settlement.line_plan import FundLines, LineView, ReleaseLine, ThawLine
from mesh.payment.settlement.windows import Clock, Status
from tests.chain.spec.settlement_state import ChallengeStatus
from tests.profit.rules import FLOOR, LINE, LOOKS, Rules
from tests.profit.world import BLOCKS, DELAY, World, account

LINE_EPOCHS = 3


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
    """Epoch in which we sent a provider work, or settled some, last."""
    short: set[str] = field(default_factory=set)
    """Providers that say that our line for them is too short."""
    accepted_facts: set[str] = field(default_factory=set)
    sealed: int = 0
    """For epochs up to this one nothing is signed any more."""
    redeemed_in: int = 0
    funded: set[str] = field(default_factory=set)
    graced: set[tuple[str, int]] = field(default_factory=set)
    """Whose word an old gateway takes after a restart."""

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
        if epoch <= self.sealed:
            return None
        try:
            line.receipt(line.check_receipt(epoch, line.sequence + 1, units))
        except ProtocolViolation:
            return None
        prices = self.world.prices(model_id)
        if self.rules.next_epoch_receipt:
            prices = dict.fromkeys(prices, 1)
            line.unsigned = {min(epoch, came): units for came, units in line.unsigned.items()}
        due = line.due(epoch, prices)
        if self.rules.grace and (provider, model_id) in self.graced and units > line.epochs[epoch].vouched:
            self.vouched[provider, model_id, epoch] = line.epochs[epoch].vouched = min(units, 1 << 22)
            return self.vouched[provider, model_id, epoch]
        if due is None:
            return None
        line.sign(epoch, due, prices)
        self.vouched[provider, model_id, epoch] = due
        return due

    def restart(self) -> None:
        """Begin anew from the journal."""
        for place, before in self.lines.items():
            line = VoucherLine(before.pair, dict(before.unsigned), sequence=before.sequence, link=before.link)
            line.verified = sum(line.unsigned.values())
            for epoch, counts in before.epochs.items():
                if epoch >= self.world.epoch - 1:
                    line.epochs[epoch] = EpochUnits(counts.receipted, counts.vouched)
            self.lines[place] = line
        self.graced = set(self.lines)
        self.used.clear()
        self.accepted_facts.clear()
        self.redeemed_in = 0

    # --- settlement ---

    def round(self) -> None:
        """Look at the chain, and do what the plan says."""
        for _ in range(LOOKS):
            clock = self.world.clock()
            self.sealed = max(self.sealed, clock.now - 1)
            for (_, model_id), line in self.lines.items():
                line.turn(self.world.epoch, self.world.prices(model_id))
            if not sum([self._carry_out(step, clock) for step in plan.plan_gateway(self._view(clock))]):
                break

    def _view(self, clock: Clock) -> plan.GatewayView:
        ledger, key = self.world.ledger, key_of(self.name)
        last = clock.claimable
        first = max(1, last - DELAY)
        share = sum(ledger.settlement.gateway_share(key, epoch) for epoch in range(first, last + 1))
        return plan.GatewayView(
            clock,
            credit=ledger.escrow.credit_of(key),
            spare=ledger.gateway_staking.spare_stake(key),
            slots=tuple(self._slots(clock)),
            challenges=tuple(self._challenges(clock)),
            shares=((first, last, share),) if share else (),
            redeemable=tuple(self._redeemable()),
            redeemed_in=self.redeemed_in,
            lines=tuple(self._lines(clock)),
            debt=ledger.settlement.debt_of(key),
            floor=FLOOR,
            line=LINE,
        )

    def _slots(self, clock: Clock) -> list[plan.GatewaySlot]:
        ledger = self.world.ledger
        leaves: dict[tuple[int, int], list[tuple[str, int]]] = {}
        for (provider, model_id, epoch), units in sorted(self.vouched.items()):
            if units and clock.now - clock.delay <= epoch < clock.now:
                leaves.setdefault((model_id, epoch), []).append((provider, units))
        return [
            plan.GatewaySlot(
                model_id,
                epoch,
                tuple(each),
                self.world.price(model_id, epoch),
                Status(ledger.settlement.checkpoint(key_of(self.name), model_id, epoch).status),
            )
            for (model_id, epoch), each in leaves.items()
        ]

    def _challenges(self, clock: Clock) -> list[plan.OpenChallenge]:
        """The largest open one of each slot."""
        settlement, key = self.world.ledger.settlement, key_of(self.name)
        largest: dict[tuple[bytes, int], plan.OpenChallenge] = {}
        for number, each in enumerate(settlement.challenges()):
            old = each.epoch < clock.now - 2 * clock.delay
            if each.gateway != key or each.status is not ChallengeStatus.OPEN or old:
                continue
            posted = self.world.posted.get((self.name, each.model_id, each.epoch))
            leaf = posted.tree.units(each.provider) if posted is not None else 0
            shown = settlement.shown_units(key, each.provider, each.epoch)
            provider = self.world.name_of(each.provider) if leaf else ""
            found = plan.OpenChallenge(
                number, each.model_id, each.epoch, provider, each.units, each.answer_by, leaf, shown
            )
            before = largest.get((each.provider, each.epoch))
            if before is None or before.units < found.units:
                largest[each.provider, each.epoch] = found
        return list(largest.values())

    def _redeemable(self) -> list[plan.Redeemable]:
        escrow, key = self.world.ledger.escrow, key_of(self.name)
        found = []
        for developer, amount in self.accepted.items():
            payer = account(developer).address
            held = escrow.reservation_of(payer, key)
            payable = min(amount - escrow.redeemed(payer, key), held.amount)
            if payable > 0:
                staying = held.amount - held.thawing
                found.append(plan.Redeemable(payer, payable, staying, held.thaw_end if held.thawing else 0))
        return found

    def _lines(self, clock: Clock) -> list[LineView]:
        fees: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for (provider, model_id, epoch), units in self.vouched.items():
            if epoch > clock.now - LINE_EPOCHS:
                fees[provider][epoch] += self.world.price(model_id, epoch).fee(units)
        routed = {provider for provider, last in self.used.items() if last >= clock.now - 1}
        found = []
        for provider in sorted({*routed, *fees, *self.funded}):
            line = self.world.ledger.gateway_staking.line_of(key_of(self.name), key_of(provider))
            if provider in fees:
                self.used[provider] = max(clock.now, self.used.get(provider, 0))
            found.append(
                LineView(
                    provider, line.amount, line.thawing, line.thaw_end, line.held, tuple(fees[provider].values()),
                    provider in self.short, provider in routed, self.used.get(provider, 0), provider in self.funded,
                )
            )  # fmt: skip
        return found

    def _carry_out(self, step: plan.GatewayStep, clock: Clock) -> int:
        """How many transactions were sent."""
        world = self.world
        match step:
            case plan.Redeem(payers):
                self.redeemed_in = clock.now
                return sum(
                    self._redeem(developer) for developer in self.accepted if account(developer).address in payers
                )
            case plan.PostCheckpoint(model_id, epoch, leaves):
                return world.post(self.name, self.name, model_id, epoch, leaves, shown=True)
            case plan.AnswerChallenge(number, model_id, epoch, provider):
                tree = world.posted[self.name, model_id, epoch].tree
                units = tree.units(key_of(provider))
                proof = tree.proof(key_of(provider), units)
                return world.tries("settlement", "answer_omission", self.name, number, units, proof)
            case plan.EndChallenge(number):
                return world.tries("settlement", "resolve_challenge", self.name, number)
            case plan.ClaimShare(first, last):
                return world.tries("gateway_staking", "claim_rewards", self.name, self.name, first, last)
            case FundLines(items):
                providers, amounts = [each for each, _ in items], [amount for _, amount in items]
                self.funded |= set(providers)
                self.short -= set(providers)
                return world.tries("gateway_staking", "fund_lines", self.name, self.name, providers, amounts)
            case ThawLine(provider, amount):
                return world.tries("gateway_staking", "thaw_line", self.name, self.name, provider, amount)
            case ReleaseLine(provider):
                return world.tries("gateway_staking", "release_line", self.name, self.name, provider)
        return 0

    def _redeem(self, developer: str) -> bool:
        voucher, signature = self.world.payment(developer, developer, self.name, self.accepted[developer])
        return self.world.tries("escrow", "redeem", self.name, voucher, signature)
