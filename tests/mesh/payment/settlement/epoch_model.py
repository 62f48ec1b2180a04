"""A small model of the chain's rules for one slot, and parties that act on it by their plans."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.payment.credit.units import ModelPrice
from mesh.payment.settlement.gateway_plan import (
    AnswerChallenge,
    ClaimShare,
    GatewaySlot,
    GatewayView,
    InDebt,
    Missed,
    OpenChallenge,
    PostCheckpoint,
    plan_gateway,
)
from mesh.payment.settlement.provider_plan import (
    Challenge,
    ChallengeOmission,
    ClaimRewards,
    CollectDebt,
    FetchLeaves,
    Lost,
    MarkSafe,
    OpenOmissionChallenge,
    Prove,
    ProviderSlot,
    ProviderView,
    ResolveChallenge,
    SlotId,
    WithdrawPayments,
    WriteOff,
    plan_provider,
)
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status

LENGTH = 4
"""Blocks in an epoch of the model."""
UNITS = 100
ONE = ModelPrice(1, 1)
"""One wei a unit."""


@dataclass
class Chain:
    """One slot (gateway, provider, model, epoch 1): refuses, by an assertion, whatever the contracts would refuse."""

    delay: int
    money: int = 1000
    """What the gateway's line, credit and stake hold."""
    block: int = 0
    status: Status = Status.NONE
    leaves: tuple[int, ...] = ()
    """Of the provider in the posted tree: none, one, or two if the gateway cheats."""
    shown: int = 0
    compensated: int = 0
    debt: int = 0
    challenged: int = 0
    proven: int = 0
    claimed: int = 0
    unclaimed: int = 0
    share: int = 0
    share_claimed: bool = False
    payments: int = 0
    challenges: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Units, and whether the provider opened it, of those that are open."""
    count: int = 0
    events: list[int] = field(default_factory=list)
    """Leaves that were shown, with their proofs."""
    posts: int = 0

    @property
    def now(self) -> int:
        return 1 + self.block // LENGTH

    @property
    def mined_in(self) -> int:
        return 1 + (self.block + 1) // LENGTH

    @property
    def clock(self) -> Clock:
        left = (self.mined_in * LENGTH) - self.block - 1
        return Clock(self.now, self.mined_in, self.delay, left)

    def post(self, leaves: tuple[int, ...]) -> None:
        assert self.mined_in == 2, "PostingWindowClosed"
        assert self.status is Status.NONE, "CheckpointExists"
        self.status, self.leaves, self.share = Status.POSTED, leaves, 10
        self.posts += 1

    def omission(self, units: int, leaf: int) -> None:
        assert 1 <= self.mined_in <= 1 + self.delay, "ChallengeWindowClosed"
        if self.status is Status.POSTED:
            assert leaf in self.leaves, "InvalidProof"
            self.show(leaf)
        else:
            assert self.mined_in > 2, "ChallengeWindowNotOpen"
            assert leaf == 0, "InvalidProof"
        missing = units - self.shown - self.compensated
        assert missing > self.debt, "NothingMissing"
        self.compensate(missing)

    def open(self, units: int, ours: bool = True) -> None:
        assert self.mined_in <= self.delay, "ChallengeWindowClosed"
        assert self.status is Status.POSTED, "NoCheckpoint"
        assert units > self.challenged, "AlreadyChallenged"
        assert units - self.shown - self.compensated > self.debt, "NothingMissing"
        self.challenged = units
        self.count += 1
        self.challenges[self.count] = (units, ours)

    def answer(self, challenge_id: int, leaf: int) -> None:
        units, _ = self.challenges[challenge_id]
        assert self.mined_in <= 1 + self.delay, "AnswerWindowClosed"
        assert leaf in self.leaves, "InvalidProof"
        del self.challenges[challenge_id]
        self.show(leaf)
        if leaf < units:
            self.uphold(units)

    def resolve(self, challenge_id: int) -> None:
        assert self.mined_in > 1 + self.delay, "AnswerWindowOpen"
        units, _ = self.challenges.pop(challenge_id)
        self.uphold(units)

    def uphold(self, units: int) -> None:
        missing = units - self.shown - self.compensated
        if missing > self.debt:
            self.compensate(missing)

    def collect(self) -> None:
        assert self.debt, "NothingMissing"
        assert self.money, "InsufficientCover"
        self.compensate(self.debt)

    def compensate(self, missing: int) -> None:
        paid = min(missing, self.money)
        self.money -= paid
        self.debt = missing - paid
        self.compensated += paid
        self.payments += paid

    def show(self, leaf: int) -> None:
        self.shown = leaf
        self.events.append(leaf)

    def prove(self, leaf: int) -> None:
        assert self.mined_in > self.delay, "EpochNotReady"
        assert self.status is Status.POSTED and leaf in self.leaves, "InvalidProof"
        assert leaf > self.proven, "AlreadyProven"
        self.unclaimed += leaf - self.proven
        self.proven = leaf

    def claim(self, first: int, last: int) -> None:
        assert 1 <= first <= last < first + MAX_RANGE, "InvalidEpochRange"
        assert last <= self.mined_in - self.delay, "RewardsNotReady"
        assert self.unclaimed and first <= 1 <= last, "NothingToClaim"
        self.claimed, self.unclaimed = self.claimed + self.unclaimed, 0

    def claim_share(self, first: int, last: int) -> None:
        assert last <= self.mined_in - self.delay, "RewardsNotReady"
        assert self.share and not self.share_claimed and first <= 1 <= last, "NothingToClaim"
        self.share_claimed = True


@dataclass
class Gateway:
    """Signed for `UNITS` and puts `leaves` of them into its tree (two if it cheats); publishes its leaves or not."""

    chain: Chain
    leaves: tuple[int, ...]
    publishes: bool = True
    answers: bool = True

    def act(self) -> None:
        chain = self.chain
        answer = min(self.leaves, default=0)  # of two leaves a cheat shows the smaller one
        challenges = tuple(
            OpenChallenge(number, 1, 1, "p", units, 1 + chain.delay, answer, chain.shown)
            for number, (units, _) in chain.challenges.items()
        )
        ordinary = (("p", sum(self.leaves)), ("q", 5)) if self.leaves else (("q", 5),)
        slots = (GatewaySlot(1, 1, ordinary, ONE, chain.status),) if chain.now > 1 else ()
        share = 0 if chain.share_claimed else chain.share
        claimable = chain.clock.claimable
        shares = ((1, claimable, share),) if claimable else ()
        view = GatewayView(chain.clock, 1000, 0, slots, challenges if self.answers else (), shares, debt=chain.debt)
        for step in plan_gateway(view):
            match step:
                case PostCheckpoint(1, 1, _, True):
                    chain.post(self.leaves)
                case AnswerChallenge(number):
                    if number not in chain.challenges or chain.mined_in > 1 + chain.delay:
                        continue
                    chain.answer(number, answer)
                case ClaimShare(first, last):
                    chain.claim_share(first, last)
                case Missed():
                    assert chain.now > 2
                    continue
                case InDebt():
                    continue
                case _:
                    raise AssertionError(step)
            chain.block += 1


@dataclass
class Provider:
    """Holds a voucher for `UNITS`; forgets everything but its journal when it is started anew."""

    chain: Chain
    gateway: Gateway
    known: int | None = None
    asked: bool = False
    lost: int = 0
    safe: int = 0
    written_off: bool = False
    slot: SlotId = field(default_factory=lambda: SlotId("g", "p", 1, 1))

    def restart(self) -> None:
        self.asked = False

    def state(self) -> ProviderSlot:
        chain = self.chain
        if chain.events:
            self.known = max(self.known or 0, *chain.events)
        challenges = (
            Challenge(number, units, 1 + chain.delay, ours) for number, (units, ours) in chain.challenges.items()
        )
        return ProviderSlot(
            self.slot,
            UNITS,
            chain.status,
            ONE,
            leaf=self.known,
            asked=self.asked,
            shown=chain.shown,
            compensated=chain.compensated,
            debt=chain.debt,
            challenged=chain.challenged,
            proven=chain.proven,
            cover=chain.money,
            challenges=tuple(challenges),
            safe=self.safe,
            written_off=self.written_off,
        )

    def view(self) -> ProviderView:
        chain = self.chain
        claimable = chain.clock.claimable
        rewards = (("p", 1, claimable, chain.unclaimed),) if claimable else ()
        return ProviderView(chain.clock, (self.state(),), rewards, chain.payments, floor=1)

    def act(self) -> None:
        for _ in range(8):
            before = self.known, self.asked, self.chain.block
            for step in plan_provider(self.view()):
                self.carry_out(step)
                if self.chain.block > before[2]:
                    break  # mined in a block of its own: the next step may find another epoch, so look again
            if (self.known, self.asked, self.chain.block) == before:
                return

    def carry_out(self, step: object) -> None:
        chain = self.chain
        match step:
            case FetchLeaves():
                # No list of leaves has two of one provider: such a tree cannot be published.
                if self.gateway.publishes and len(chain.leaves) < 2:
                    self.known = sum(chain.leaves)
                else:
                    self.asked = True
                return
            case ChallengeOmission(_, leaf):
                chain.omission(UNITS, leaf)
            case OpenOmissionChallenge():
                chain.open(UNITS)
            case ResolveChallenge(_, number):
                chain.resolve(number)
            case CollectDebt(_, units):
                assert units == chain.debt
                chain.collect()
            case Prove(_, leaf):
                chain.prove(leaf)
            case ClaimRewards("p", first, last):
                chain.claim(first, last)
            case WithdrawPayments(amount):
                chain.claimed += amount
                chain.payments = 0
            case Lost(_, units):
                self.lost = units
                return
            case MarkSafe(_, units):
                assert self.safe < units <= UNITS
                self.safe = units
                return
            case WriteOff():
                assert not self.written_off
                self.written_off = True
                return
            case _:
                raise AssertionError(step)
        chain.block += 1
