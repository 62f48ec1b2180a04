"""An honest provider, by the decisions of the real software: for whom it works, which vouchers count, and its plan
around an epoch's end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from chain.merkle import Proof
from chain.primitives import MAX_UINT96, key_of
from mesh.errors import ProtocolViolation
from mesh.payment.credit.cover import Cover, Promise
from mesh.payment.credit.line import CreditLine, EpochUnits, Pair, ReceiptClaim
from mesh.payment.settlement import provider_plan as plan
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status
from tests.chain.spec.settlement_state import ChallengeStatus
from tests.profit.rules import CREDIT, FLOOR, LOOKS, Rules
from tests.profit.world import BLOCKS, World, account


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
    written_off: set[tuple[str, int]] = field(default_factory=set)
    settled: set[tuple[str, int]] = field(default_factory=set)
    leaves: dict[tuple[str, int], tuple[int, Proof]] = field(default_factory=dict)
    """Our leaves of posted trees, as far as we have seen them."""
    asked: set[tuple[str, int]] = field(default_factory=set)
    """Leaves that we asked for in vain."""
    signers: dict[tuple[str, int], str] = field(default_factory=dict)
    """Accounts whose signatures the vouchers carry, by gateway and epoch."""
    restarts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """How often a gateway got our credit anew."""
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
        if epoch < self.world.epoch - 1:
            return
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
            epoch: Promise(units, min(units, self.safe.get((gateway, epoch), 0)), (gateway, epoch) in self.written_off)
            for (other, epoch), units in self.held.items()
            if other == gateway
        }
        tariffs = {epoch: self.world.price(self.model_id, epoch) for epoch in promises}
        self.lines[gateway].secure(self.covers[gateway].update(promises, guarantee, tariffs))

    def restart(self) -> None:
        """Begin anew from the journal: what was claimed is still claimed, and not waited for."""
        for gateway, before in list(self.lines.items()):
            line = CreditLine(before.pair, before.credit, sequence=before.sequence, link=before.link)
            for epoch, counts in sorted(before.epochs.items()):
                line.epoch, line.epochs = epoch, {epoch: EpochUnits(counts.receipted, counts.vouched)}
            line.doubtful = line.claimed
            self.lines[gateway] = line
            self.restarts[gateway] += 1
        self.covers.clear()
        self.accepted_facts.clear()

    # --- settlement ---

    def round(self) -> None:
        """Look at the chain, and do what the plan says."""
        for _ in range(LOOKS):
            view = self._view(self.world.clock())
            news = sum([self._carry_out(step) for step in plan.plan_provider(view)])
            self.settled |= {(each.id.gateway, each.id.epoch) for each in view.slots if plan.is_settled(view, each)}
            if not news:
                break

    def _view(self, clock: Clock) -> plan.ProviderView:
        ledger, last = self.world.ledger, clock.claimable
        first = max(1, last - MAX_RANGE + 1)
        rewards = 0
        if last >= 1:
            rewards = ledger.router.pool(self.model_id).view_rewards(self.name, first, last, self.world.block)
        return plan.ProviderView(
            clock,
            tuple(
                self._slot(gateway, epoch)
                for gateway, epoch in self.held
                if epoch < clock.now and self.held[gateway, epoch] and (gateway, epoch) not in self.settled
            ),
            ((self.name, first, last, rewards),) if rewards else (),
            ledger.settlement.payments_of(account(self.name).address),
            floor=FLOOR,
            bond_bps=ledger.settlement.parameters(self.world.block).bond_bps,
        )

    def _slot(self, gateway: str, epoch: int) -> plan.ProviderSlot:
        settlement = self.world.ledger.settlement
        work = key_of(gateway), key_of(self.name), epoch
        status = Status(settlement.checkpoint(work[0], self.model_id, epoch).status)
        shown, debt = settlement.shown_units(*work), settlement.debt_units(*work)
        if shown > self.leaves.get((gateway, epoch), (0, ()))[0]:  # it was in an event
            self._keep_leaf(gateway, epoch, shown)
        leaf = self.leaves.get((gateway, epoch))
        me = account(self.name).address
        return plan.ProviderSlot(
            plan.SlotId(gateway, self.name, self.model_id, epoch),
            self.held[gateway, epoch],
            status,
            self.world.price(self.model_id, epoch),
            leaf=leaf[0] if leaf is not None and status is Status.POSTED else None,
            asked=(gateway, epoch) in self.asked,
            shown=shown,
            compensated=settlement.compensated_units(*work),
            debt=debt,
            challenged=settlement.challenged_units(*work),
            proven=settlement.proven_units(*work),
            cover=settlement.cover(work[0], work[1]) if debt else 0,
            challenges=tuple(
                plan.Challenge(number, each.units, each.answer_by, each.challenger == me)
                for number, each in enumerate(settlement.challenges())
                if (each.gateway, each.provider, each.epoch) == work and each.status is ChallengeStatus.OPEN
            ),
            safe=self.safe.get((gateway, epoch), 0),
            written_off=(gateway, epoch) in self.written_off,
        )

    def _keep_leaf(self, gateway: str, epoch: int, units: int) -> None:
        proof = self.world.proof(gateway, self.model_id, epoch, self.name, units)
        if proof is not None:
            self.leaves[gateway, epoch] = units, proof

    def _fetch(self, gateway: str, epoch: int) -> bool:
        """Whether the gateway gave us its leaves."""
        posted = self.world.posted.get((gateway, self.model_id, epoch))
        if posted is None or not posted.shown:
            self.asked.add((gateway, epoch))
            return False
        units = posted.tree.units(key_of(self.name))
        self.leaves[gateway, epoch] = units, ()
        if units:
            self._keep_leaf(gateway, epoch, units)
        return True

    def _carry_out(self, step: plan.ProviderStep) -> int:
        """Whether the chain or what we know has changed."""
        world = self.world
        match step:
            case plan.FetchLeaves(slot):
                return self._fetch(slot.gateway, slot.epoch)
            case plan.MarkSafe(slot, units):
                self.safe[slot.gateway, slot.epoch] = max(units, self.safe.get((slot.gateway, slot.epoch), 0))
            case plan.WriteOff(slot):
                self.written_off.add((slot.gateway, slot.epoch))
            case plan.ChallengeOmission(slot, leaf):
                proof = self.leaves[slot.gateway, slot.epoch][1] if leaf else ()
                return world.tries("settlement", "challenge_omission", self.name, *self._voucher(slot), leaf, proof)
            case plan.OpenOmissionChallenge(slot):
                return world.tries("settlement", "open_omission_challenge", self.name, *self._voucher(slot))
            case plan.ResolveChallenge(_, number):
                return world.tries("settlement", "resolve_challenge", self.name, number)
            case plan.CollectDebt(slot):
                return world.tries("settlement", "collect_debt", self.name, slot.gateway, self.name, slot.epoch)
            case plan.Prove(slot):
                leaf, proof = self.leaves[slot.gateway, slot.epoch]
                return world.tries(
                    "settlement", "prove_contribution_for", self.name, slot.gateway, self.name, slot.epoch, leaf, proof
                )
            case plan.ClaimRewards(provider, first, last):
                return world.tries(f"pool {self.model_id}", "claim_rewards", self.name, provider, first, last)
            case plan.WithdrawPayments():
                return world.tries("settlement", "withdraw_payments", self.name)
        return 0

    def _voucher(self, slot: plan.SlotId) -> tuple[object, bytes]:
        signer = self.signers.get((slot.gateway, slot.epoch), slot.gateway)
        units = self.held[slot.gateway, slot.epoch]
        return self.world.contribution(signer, slot.gateway, self.name, self.model_id, slot.epoch, units)
