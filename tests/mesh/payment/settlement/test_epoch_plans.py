"""The plans of an epoch's end against a small model of the chain's rules, under any schedule of absences."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.settlement.gateway_plan import (
    AnswerChallenge,
    ClaimShare,
    GatewaySlot,
    GatewayView,
    Missed,
    OpenChallenge,
    PostCheckpoint,
    Redeem,
    Uncovered,
    fee_for,
    fit,
    plan_gateway,
)
from mesh.payment.settlement.provider_plan import (
    Challenge,
    ChallengeOmission,
    ChallengeSum,
    ClaimRewards,
    FetchLeaves,
    Lost,
    OpenOmissionChallenge,
    Prove,
    ProviderSlot,
    ProviderView,
    ResolveChallenge,
    SlotId,
    WithdrawPayments,
    is_settled,
    plan_provider,
)
from mesh.payment.settlement.windows import MAX_RANGE, Clock, Status

LENGTH = 4
"""Blocks in an epoch of the model."""
UNITS = 100


@dataclass
class Chain:
    """One slot (gateway, provider, model, epoch 1): refuses, by an assertion, whatever the contracts would refuse."""

    delay: int
    block: int = 0
    status: Status = Status.NONE
    leaf: int = 0
    compensated: int = 0
    proven: bool = False
    claimed: int = 0
    unclaimed: int = 0
    share: int = 0
    share_claimed: bool = False
    payments: int = 0
    challenge: str = ""
    posts: int = 0
    log: list[str] = field(default_factory=list)

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

    def post(self, leaf: int) -> None:
        assert self.mined_in == 2, "PostingWindowClosed"
        assert self.status is Status.NONE, "CheckpointExists"
        self.status, self.leaf, self.share = Status.POSTED, leaf, 10
        self.posts += 1

    def omission(self, units: int, leaf: int) -> None:
        assert 2 <= self.mined_in <= self.delay, "ChallengeWindowClosed"
        assert self.status is not Status.NONE or self.mined_in > 2, "ChallengeWindowNotOpen"
        assert leaf == (self.leaf if self.status is Status.POSTED else 0), "InvalidProof"
        assert leaf or self.status is not Status.POSTED, "InvalidProof"
        missing = units - leaf - self.compensated
        assert missing > 0, "NothingMissing"
        self.compensated += missing
        self.payments += missing

    def open(self) -> None:
        assert 2 <= self.mined_in <= self.delay - 1, "ChallengeWindowClosed"
        assert self.status is Status.POSTED, "NoCheckpoint"
        assert self.challenge != "open", "AlreadyChallenged"
        assert self.compensated < UNITS, "NothingMissing"
        self.challenge = "open"

    def answer(self) -> None:
        assert self.challenge == "open" and self.mined_in <= self.delay, "AnswerWindowClosed"
        assert self.leaf >= UNITS, "InvalidProof"
        self.challenge = "answered"

    def resolve(self) -> None:
        assert self.challenge == "open" and self.mined_in > self.delay, "AnswerWindowOpen"
        self.challenge = "upheld"
        missing = UNITS - self.compensated
        self.compensated += missing
        self.payments += missing

    def prove(self) -> None:
        assert self.mined_in > self.delay, "EpochNotReady"
        assert self.status is Status.POSTED and self.leaf and not self.proven, "AlreadyProven"
        self.proven = True
        self.unclaimed = self.leaf

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
    """Signed for `UNITS` and remembers `leaf` of them; publishes its leaves or not."""

    chain: Chain
    leaf: int
    publishes: bool = True

    def act(self) -> None:
        chain = self.chain
        challenges = ()
        if chain.challenge == "open":
            challenges = (OpenChallenge(7, "omission", 1, 1, "p", chain.delay, self.leaf >= UNITS),)
        leaves = (("p", self.leaf), ("q", 5)) if self.leaf else (("q", 5),)
        fees = sum(units for _, units in leaves)
        slots = (GatewaySlot(1, 1, leaves, fees, 1, 1, chain.status),) if chain.now > 1 else ()
        share = 0 if chain.share_claimed else chain.share
        claimable = chain.clock.claimable
        shares = ((1, claimable, share),) if claimable else ()
        view = GatewayView(chain.clock, 1000, True, slots, challenges, shares)
        for step in plan_gateway(view):
            match step:
                case PostCheckpoint(1, 1, posted, True):
                    chain.post(dict(posted).get("p", 0))
                case AnswerChallenge(7):
                    chain.answer()
                case ClaimShare(first, last):
                    chain.claim_share(first, last)
                case Missed():
                    assert chain.now > 2
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
    slot: SlotId = field(default_factory=lambda: SlotId("g", "p", 1, 1))

    def restart(self) -> None:
        self.asked = False

    def view(self) -> ProviderView:
        chain = self.chain
        challenge = Challenge(7, chain.challenge == "open", chain.delay) if chain.challenge else None
        if chain.challenge == "answered":
            self.known = chain.leaf
        state = ProviderSlot(
            self.slot,
            UNITS,
            chain.status,
            leaf=self.known,
            asked=self.asked,
            compensated=chain.compensated,
            proven=chain.proven,
            challenge=challenge,
        )
        claimable = chain.clock.claimable
        rewards = (("p", 1, claimable, chain.unclaimed),) if claimable else ()
        return ProviderView(chain.clock, (state,), rewards, chain.payments)

    def act(self) -> None:
        for _ in range(6):
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
                if self.gateway.publishes:
                    self.known = chain.leaf
                else:
                    self.asked = True
                return
            case ChallengeOmission(_, leaf):
                chain.omission(UNITS, leaf)
            case OpenOmissionChallenge():
                chain.open()
            case ResolveChallenge():
                chain.resolve()
            case Prove():
                assert self.known is not None
                chain.prove()
            case ClaimRewards("p", first, last):
                chain.claim(first, last)
            case WithdrawPayments(amount):
                chain.claimed += amount
                chain.payments = 0
            case Lost(_, units):
                self.lost = units
                return
            case _:
                raise AssertionError(step)
        chain.block += 1


@given(st.data())
def test_under_any_schedule_of_absences_nothing_is_refused_and_nothing_that_can_be_had_is_lost(
    data: st.DataObject,
) -> None:
    delay = data.draw(st.integers(4, 7), label="delay")
    chain = Chain(delay)
    remembered = data.draw(st.sampled_from([0, 40, UNITS]), label="leaf")
    gateway = Gateway(chain, remembered, data.draw(st.booleans(), label="publishes"))
    provider = Provider(chain, gateway)
    # For so many blocks: whom each finds at home, and whether the provider was started anew; in the end everybody is.
    present = st.tuples(st.integers(1, LENGTH), st.booleans(), st.booleans(), st.booleans())
    spells = data.draw(st.lists(present, max_size=2 * delay), label="schedule")
    schedule = [tuple(at_home) for blocks, *at_home in spells for _ in range(blocks)]
    seen_deciding = seen_opening = False
    for gateway_here, provider_here, restarted in schedule:
        if gateway_here:
            gateway.act()
        if restarted:
            provider.restart()
        if provider_here:
            before = chain.clock
            provider.act()
            seen_deciding |= before.now >= 3 and before.may_challenge(1)
            seen_opening |= before.now >= 3 and before.may_open(1)
        chain.block += 1
    chain.block = max(chain.block, LENGTH * (delay + 1))
    gateway.publishes |= remembered > 0
    for _ in range(4):
        gateway.act()
        provider.act()
        chain.block += 1
    assert chain.posts <= 1
    if chain.status is Status.POSTED and chain.leaf:
        assert chain.proven
        assert chain.share_claimed
        assert chain.claimed >= chain.leaf  # a leaf never expires
    if chain.status is Status.NONE and seen_deciding:
        assert chain.claimed == UNITS
    if chain.status is Status.POSTED and seen_opening:
        assert chain.claimed >= UNITS
    assert chain.unclaimed == chain.payments == 0
    assert provider.lost in (0, UNITS - chain.claimed)


NOW = 20
CLOCKS = [Clock(NOW, NOW + seam, delay, 9) for delay in (4, 5) for seam in (0, 1)]


def test_a_provider_s_steps_are_inside_their_windows_whatever_the_chain_says() -> None:
    challenges = [None, *(Challenge(7, opened, NOW + late) for opened in (True, False) for late in (-1, 0, 1))]
    flags = list(product((False, True), repeat=4))
    seen = set()
    for clock, status, leaf, compensated, challenge in product(
        CLOCKS, Status, (None, 0, 40, UNITS), (0, 60, UNITS), challenges
    ):
        for epoch, (asked, proven, sealed, wrong_sum) in product(range(NOW - 2 * clock.delay - 1, NOW + 2), flags):
            found = SlotId("g", "p", 1, epoch)
            slot = ProviderSlot(
                found, UNITS, status, leaf, asked, compensated, proven, False, sealed, wrong_sum, challenge
            )
            steps = plan_provider(ProviderView(clock, (slot,)))
            for step in steps:
                seen.add(type(step))
                match step:
                    case ChallengeOmission() | ChallengeSum():
                        assert epoch + 1 <= clock.now and clock.upcoming <= epoch + clock.delay - 1 and not sealed
                    case OpenOmissionChallenge():
                        assert epoch + 1 <= clock.now and clock.upcoming <= epoch + clock.delay - 2 and not sealed
                        assert challenge is None and not leaf and status is Status.POSTED
                    case Prove():
                        assert clock.now >= epoch + clock.delay and not proven and leaf and status is Status.POSTED
                    case ResolveChallenge():
                        assert challenge is not None and challenge.open and clock.now > challenge.answer_by
                    case Lost(_, units):
                        assert clock.now >= epoch + clock.delay and units == slot.missing > 0
                    case FetchLeaves():
                        assert leaf is None and status is Status.POSTED and epoch < clock.now
            if is_settled(clock, slot):
                assert all(isinstance(step, Lost) for step in steps)
    assert len(seen) == 7  # every kind but the claims


def test_a_voided_checkpoint_owes_the_whole_voucher() -> None:
    slot = ProviderSlot(SlotId("g", "p", 1, NOW - 1), UNITS, Status.VOIDED, leaf=40, compensated=10)
    assert slot.missing == UNITS - 10
    (step,) = plan_provider(ProviderView(CLOCKS[0], (slot,)))
    assert step == ChallengeOmission(slot.id, 0)


def test_claims_of_either_side_wait_for_the_delay_and_are_left_out_unless_asked_for() -> None:
    for clock, last, amount, asked in product(CLOCKS, range(NOW - 8, NOW + 1), (0, 5), (False, True)):
        due = asked and amount > 0 and last + clock.delay <= clock.now
        rewards = (("p", 1, last, amount),)
        assert plan_provider(ProviderView(clock, (), rewards, claims=asked)) == [ClaimRewards("p", 1, last)] * due
        shares = ((1, last, amount),)
        assert plan_gateway(GatewayView(clock, 0, True, (), (), shares, claims=asked)) == [ClaimShare(1, last)] * due


leaves_strategy = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**9), max_size=6).map(
    lambda units: tuple(sorted(units.items()))
)


def slot_of(model: int, epoch: int, units: int, status: Status = Status.NONE) -> GatewaySlot:
    """At a price of one wei a unit."""
    leaves = (("p", units - units // 3), ("q", units // 3)) if units else ()
    return GatewaySlot(model, epoch, leaves, units, 1, 1, status)


def test_a_gateway_posts_only_in_the_window_only_once_and_only_what_is_covered() -> None:
    for clock, epoch, status, bonded, cover, blocks_left, redeemable, redeemed_in in product(
        CLOCKS, range(NOW - 6, NOW + 2), Status, (False, True), (0, 59, 60), (1, 9), (0, 5), (NOW - 1, NOW)
    ):
        at = Clock(clock.now, clock.upcoming, clock.delay, blocks_left)
        view = GatewayView(
            at, cover, bonded, (slot_of(1, epoch, 60, status),), redeemable=redeemable, redeemed_in=redeemed_in
        )
        steps = plan_gateway(view)
        posts = [step for step in steps if isinstance(step, PostCheckpoint)]
        open_now = at.now == at.upcoming == epoch + 1 and status is Status.NONE and bonded
        fresh = redeemable > 0 and redeemed_in < at.now
        partly = 0 < cover < 60 and blocks_left <= view.margin and not fresh
        assert len(posts) == (open_now and (cover >= 60 or partly))
        for post in posts:
            assert (post.model_id, post.epoch, post.whole) == (1, epoch, cover >= 60)
            assert sum(units for _, units in post.leaves) <= min(60, cover)
        assert any(isinstance(step, Uncovered) for step in steps) == (open_now and cover < 60 and not fresh)
        window = at.now == at.upcoming == epoch + 1 and status is Status.NONE
        assert (Redeem() in steps) == (fresh or (redeemable > 0 and window and cover < 60))
        missed = status is Status.NONE and (at.now > epoch + 1 or (window and not bonded))
        assert any(isinstance(step, Missed) for step in steps) == missed


def test_what_is_covered_is_spent_once_the_cheapest_model_first() -> None:
    slots = tuple(slot_of(model, NOW - 1, units) for model, units in ((1, 70), (2, 30), (3, 60)))
    steps = plan_gateway(GatewayView(CLOCKS[0], 100, True, slots))
    assert [(type(step), getattr(step, "model_id", None)) for step in steps] == [
        (PostCheckpoint, 2),
        (PostCheckpoint, 3),
        (Uncovered, 1),
    ]
    assert steps[-1] == Uncovered(1, NOW - 1, 70, 10)


def test_challenges_are_answered_in_time_the_most_urgent_first_if_we_can() -> None:
    for clock in CLOCKS:
        challenges = tuple(
            OpenChallenge(10 * late + answerable, "omission", 1, 15, "p", NOW + late, answerable)
            for late in (2, -1, 0, 1)
            for answerable in (False, True)
        )
        steps = plan_gateway(GatewayView(clock, 0, True, (), challenges))
        answered = [step.challenge_id for step in steps if isinstance(step, AnswerChallenge)]
        assert answered == [10 * late + 1 for late in (0, 1, 2) if clock.upcoming <= NOW + late]


@given(leaves_strategy.filter(bool), st.integers(0, 10**6), st.integers(1, 100), st.integers(0, 10**15))
def test_leaves_cut_down_to_a_cover_are_paid_by_it_and_each_keeps_its_part(
    leaves: tuple[tuple[str, int], ...], price: int, blocks: int, cover: int
) -> None:
    cut = dict(fit(leaves, price=price, blocks=blocks, cover=cover))
    total = sum(units for _, units in leaves)
    kept = sum(cut.values())
    assert fee_for(kept, price, blocks) <= cover or not cut
    for provider, units in leaves:
        assert cut.get(provider, 0) <= units
        assert abs(cut.get(provider, 0) * total - units * kept) <= total * (len(leaves) + 1)
    if fee_for(total, price, blocks) <= cover:
        assert cut == dict(leaves)
