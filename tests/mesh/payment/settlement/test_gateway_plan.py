"""What is due for a gateway: it posts, answers, redeems and claims inside the windows, and only what it can cover."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.credit.units import ModelPrice
from mesh.payment.settlement.gateway_plan import (
    AnswerChallenge,
    ClaimShare,
    EndChallenge,
    GatewaySlot,
    GatewayView,
    InDebt,
    Missed,
    OpenChallenge,
    PostCheckpoint,
    Redeem,
    Redeemable,
    Uncovered,
    fit,
    plan_gateway,
)
from mesh.payment.settlement.line_plan import FundLines, LineView
from mesh.payment.settlement.windows import Clock, Status

NOW = 20
ONE = ModelPrice(1, 1)
CLOCKS = [Clock(NOW, NOW + seam, delay, 9) for delay in (4, 5) for seam in (0, 1)]
PAYER = bytes(20)


def slot_of(model: int, epoch: int, units: int, status: Status = Status.NONE) -> GatewaySlot:
    """At a price of one wei a unit."""
    leaves = (("p", units - units // 3), ("q", units // 3)) if units else ()
    return GatewaySlot(model, epoch, leaves, ONE, status)


def test_a_gateway_posts_only_in_the_window_only_once_and_only_what_is_covered() -> None:
    for clock, epoch, status, cover, blocks_left, payable, redeemed_in in product(
        CLOCKS, range(NOW - 6, NOW + 2), Status, (0, 59, 60), (1, 9), (0, 5), (NOW - 1, NOW)
    ):
        at = Clock(clock.now, clock.upcoming, clock.delay, blocks_left)
        redeemable = (Redeemable(PAYER, payable, 100),) if payable else ()
        slots = (slot_of(1, epoch, 60, status),)
        view = GatewayView(at, cover // 2, cover - cover // 2, slots, redeemable=redeemable, redeemed_in=redeemed_in)
        steps = plan_gateway(view)
        posts = [step for step in steps if isinstance(step, PostCheckpoint)]
        open_now = at.now == at.upcoming == epoch + 1 and status is Status.NONE
        fresh = payable > 0 and redeemed_in < at.now
        partly = 0 < cover < 60 and blocks_left <= view.margin and not fresh
        assert len(posts) == (open_now and (cover >= 60 or partly))
        for post in posts:
            assert (post.model_id, post.epoch, post.whole) == (1, epoch, cover >= 60)
            assert sum(units for _, units in post.leaves) <= min(60, cover)
        assert any(isinstance(step, Uncovered) for step in steps) == (open_now and cover < 60 and not fresh)
        assert (Redeem((PAYER,)) in steps) == (fresh or (payable > 0 and open_now and cover < 60))
        assert any(isinstance(step, Missed) for step in steps) == (status is Status.NONE and at.now > epoch + 1)


def test_what_is_covered_is_spent_once_the_cheapest_model_first() -> None:
    slots = tuple(slot_of(model, NOW - 1, units) for model, units in ((1, 70), (2, 30), (3, 60)))
    steps = plan_gateway(GatewayView(CLOCKS[0], 100, 0, slots))
    assert [(type(step), getattr(step, "model_id", None)) for step in steps] == [
        (PostCheckpoint, 2),
        (PostCheckpoint, 3),
        (Uncovered, 1),
    ]
    assert steps[-1] == Uncovered(1, NOW - 1, 70, 10)


def test_stake_that_checkpoints_of_this_epoch_need_is_not_given_to_lines() -> None:
    line = LineView("p", fees=(100,))
    for credit, spare in product((0, 50, 100), (0, 60, 100, 300)):
        view = GatewayView(CLOCKS[0], credit, spare, (slot_of(1, NOW - 1, 100),), lines=(line,), line=8)
        funded = sum(amount for step in plan_gateway(view) if isinstance(step, FundLines) for _, amount in step.items)
        assert funded == min(200, max(0, spare - (100 - credit)))


def test_challenges_are_answered_in_time_the_most_urgent_first_with_what_we_have() -> None:
    for clock in CLOCKS:
        challenges = tuple(
            OpenChallenge(100 * late + leaf, 1, 15, "p", 60, NOW + late, leaf=leaf)
            for late in (2, -1, 0, 1)
            for leaf in (0, 40, 60, 80)
        )
        steps = plan_gateway(GatewayView(clock, challenges=challenges))
        answered = [step.challenge_id for step in steps if isinstance(step, AnswerChallenge)]
        due = [late for late in (0, 1, 2) if clock.upcoming <= NOW + late]
        assert answered == [100 * late + leaf for late in due for leaf in (40, 60, 80)]  # in part as well


def test_what_the_chain_was_shown_already_is_not_shown_again_and_strangers_are_not_answered() -> None:
    for shown, leaf, units, provider in product((0, 40, 60), (0, 40, 60), (40, 60, 80), ("", "p")):
        challenge = OpenChallenge(1, 1, 15, provider, units, NOW + 1, leaf, shown)
        steps = plan_gateway(GatewayView(CLOCKS[0], challenges=(challenge,)))
        assert bool(steps) == (provider != "" and shown < min(leaf, units))


def test_a_gateway_that_winds_down_ends_challenges_that_nobody_answered() -> None:
    for late, leaving in product((-1, 0, 1), (False, True)):
        challenge = OpenChallenge(1, 1, 15, "p", 60, NOW + late)
        steps = plan_gateway(GatewayView(CLOCKS[0], challenges=(challenge,), winding_down=leaving))
        assert steps == [EndChallenge(1)] * (leaving and late < 0)


def test_vouchers_are_redeemed_once_an_epoch_if_worth_it_and_before_their_payer_can_leave() -> None:
    for clock, redeemed_in, payable, staying, end in product(
        CLOCKS, (NOW - 1, NOW), (0, 9, 10, 50), (0, 49, 50), (0, NOW - 1, NOW, NOW + 1, NOW + 2, NOW + 3)
    ):
        found = Redeemable(PAYER, payable, staying, end)
        view = GatewayView(clock, redeemable=(found,), redeemed_in=redeemed_in, floor=10)
        leaving = 0 < end <= clock.upcoming + 1 and payable > staying
        due = payable >= 10 and (redeemed_in < NOW or leaving)
        assert plan_gateway(view) == [Redeem((PAYER,))] * due


def test_only_the_vouchers_that_are_worth_it_are_redeemed_unless_a_checkpoint_needs_them() -> None:
    found = tuple(Redeemable(bytes([n]) * 20, n, 100) for n in (0, 5, 10, 20))
    view = GatewayView(CLOCKS[0], redeemable=found, floor=10)
    assert plan_gateway(view) == [Redeem((bytes([10]) * 20, bytes([20]) * 20))]
    needed = GatewayView(CLOCKS[0], 50, 0, (slot_of(1, NOW - 1, 60),), redeemable=found, redeemed_in=NOW, floor=10)
    assert plan_gateway(needed)[0] == Redeem((bytes([5]) * 20, bytes([10]) * 20, bytes([20]) * 20))


def test_a_debt_is_told() -> None:
    assert plan_gateway(GatewayView(CLOCKS[0], debt=7)) == [InDebt(7)]


def test_claims_wait_for_the_delay_and_are_left_out_unless_asked_for() -> None:
    for clock, last, amount, asked in product(CLOCKS, range(NOW - 8, NOW + 1), (0, 5), (False, True)):
        due = asked and amount > 0 and last + clock.delay <= clock.now
        assert (
            plan_gateway(GatewayView(clock, shares=((1, last, amount),), claims=asked)) == [ClaimShare(1, last)] * due
        )


leaves_strategy = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**9), max_size=6).map(
    lambda units: tuple(sorted(units.items()))
)


@given(leaves_strategy.filter(bool), st.integers(0, 10**6), st.integers(1, 100), st.integers(0, 10**15))
def test_leaves_cut_down_to_a_cover_are_paid_by_it_and_each_keeps_its_part(
    leaves: tuple[tuple[str, int], ...], wei: int, blocks: int, cover: int
) -> None:
    price = ModelPrice(wei, blocks)
    cut = dict(fit(leaves, price, cover))
    total = sum(units for _, units in leaves)
    kept = sum(cut.values())
    assert price.fee(kept) <= cover or not cut
    for provider, units in leaves:
        assert cut.get(provider, 0) <= units
        assert abs(cut.get(provider, 0) * total - units * kept) <= total * (len(leaves) + 1)
    if price.fee(total) <= cover:
        assert cut == dict(leaves)
