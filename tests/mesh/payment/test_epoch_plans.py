"""The plans of an epoch's end against a small model of the chain's rules, under any schedule of absences."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.epochs import MAX_RANGE, Clock, Status
from mesh.payment.gateway_plan import (
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
from mesh.payment.provider_plan import (
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
    # Whom each block finds at home; in the end everybody is.
    present = st.tuples(st.booleans(), st.booleans(), st.booleans())
    schedule = data.draw(st.lists(present, max_size=LENGTH * (delay + 3)), label="schedule")
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


clocks = st.builds(
    lambda now, seam, delay, left: Clock(now, now + seam, delay, left),
    st.integers(1, 30),
    st.booleans().map(int),
    st.integers(4, 9),
    st.integers(1, 60),
)
provider_slots = st.builds(
    ProviderSlot,
    st.builds(SlotId, st.sampled_from("gh"), st.just("p"), st.just(1), st.integers(1, 30)),
    st.integers(1, 100),
    st.sampled_from(Status),
    st.none() | st.integers(0, 100),
    st.booleans(),
    st.integers(0, 100),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | st.builds(Challenge, st.integers(1, 9), st.booleans(), st.integers(1, 40)),
)


@given(clocks, st.lists(provider_slots, max_size=6))
def test_a_provider_s_steps_are_inside_their_windows_whatever_the_chain_says(
    clock: Clock, slots: list[ProviderSlot]
) -> None:
    by_id = {slot.id: slot for slot in slots}
    view = ProviderView(clock, tuple(by_id.values()), (("p", 1, clock.now, 5), ("p", 1, max(1, clock.claimable), 5)), 3)
    steps = plan_provider(view)
    assert steps == plan_provider(view)
    for step in steps:
        match step:
            case ChallengeOmission(slot) | ChallengeSum(slot):
                assert slot.epoch + 1 <= clock.now and clock.upcoming <= slot.epoch + clock.delay - 1
                assert not by_id[slot].sealed
            case OpenOmissionChallenge(slot):
                assert slot.epoch + 1 <= clock.now and clock.upcoming <= slot.epoch + clock.delay - 2
                assert by_id[slot].challenge is None and not by_id[slot].leaf and not by_id[slot].sealed
            case Prove(slot):
                assert clock.now >= slot.epoch + clock.delay and not by_id[slot].proven
            case ClaimRewards(_, _, last):
                assert last + clock.delay <= clock.now
            case ResolveChallenge(slot, _):
                challenge = by_id[slot].challenge
                assert challenge is not None and challenge.open and clock.now > challenge.answer_by
            case Lost(slot, units):
                assert clock.now >= slot.epoch + clock.delay and units == by_id[slot].missing
    for slot in by_id.values():
        if is_settled(clock, slot):
            left = [each for each in steps if getattr(each, "slot", None) == slot.id and not isinstance(each, Lost)]
            assert not left


leaves_strategy = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**9), max_size=6).map(
    lambda units: tuple(sorted(units.items()))
)


@given(
    clocks,
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30), leaves_strategy, st.sampled_from(Status))),
    st.integers(0, 10**12),
    st.booleans(),
    st.integers(0, 10**9),
    st.integers(0, 30),
    st.integers(0, 10**6),
)
def test_a_gateway_posts_only_in_the_window_only_once_and_only_what_is_covered(
    clock: Clock,
    drawn: list[tuple[int, int, tuple[tuple[str, int], ...], Status]],
    cover: int,
    bonded: bool,
    redeemable: int,
    redeemed_in: int,
    price: int,
) -> None:
    slots = {
        (model, epoch): GatewaySlot(
            model, epoch, leaves, fee_for(sum(units for _, units in leaves), price, 7), price, 7, status
        )
        for model, epoch, leaves, status in drawn
    }
    view = GatewayView(clock, cover, bonded, tuple(slots.values()), redeemable=redeemable, redeemed_in=redeemed_in)
    left, posted = cover, set()
    for step in plan_gateway(view):
        match step:
            case PostCheckpoint(model, epoch, leaves, whole):
                slot = slots[model, epoch]
                assert clock.now == clock.upcoming == epoch + 1 and slot.status is Status.NONE and bonded
                assert (model, epoch) not in posted
                posted.add((model, epoch))
                fees = fee_for(sum(units for _, units in leaves), price, 7)
                assert leaves and fees <= left
                left -= fees
                assert whole == (leaves == slot.leaves)
                assert whole or clock.blocks_left <= view.margin
            case Uncovered(_, _, fees, short):
                assert fees > short
            case Missed(model, epoch, reason):
                assert not bonded or (reason == "the window has closed" and clock.now > epoch + 1)
            case Redeem():
                assert redeemable
            case _:
                raise AssertionError(step)


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
