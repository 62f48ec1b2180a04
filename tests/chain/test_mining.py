"""Node mining, task mining, quality of service and the consensus task, against exact arithmetic elsewhere."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from xml.etree import ElementTree

import mpmath  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.consensus import Fate, Missing, draw_nodes, is_drawn, judge, share_fee
from chain.emission import TableSchedule
from chain.fixed import LN2, ONE, exp2_neg, exp_neg
from chain.mining import (
    MINING_TOTAL,
    TOTAL_SUPPLY,
    effective_months,
    node_mined,
    node_mining_schedule,
    share_by_quality,
    task_mined,
    task_mining_schedule,
)
from chain.plots import mining_plot
from chain.primitives import FUNC, keccak256, word
from chain.quality import POOL, RECOVERY_SECONDS, WAD, Quality

mpmath.mp.dps = 120


def exactly(fraction: Fraction) -> mpmath.mpf:
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def test_ln_2_is_right_to_256_bits() -> None:
    assert abs(mpmath.mpf(LN2) - mpmath.ln(2) * mpmath.mpf(2) ** 256) < 2


@given(st.integers(0, 10**12), st.integers(1, 10**9))
def test_the_exponential_is_within_2_to_the_minus_180(p: int, q: int) -> None:
    error = abs(mpmath.mpf(exp_neg(p, q)) - mpmath.exp(-exactly(Fraction(p, q))) * ONE)
    assert error < 2**12
    error = abs(mpmath.mpf(exp2_neg(p, q)) - mpmath.mpf(2) ** -exactly(Fraction(p, q)) * ONE)
    assert error < 2**12


@pytest.mark.parametrize("arguments", [(-1, 1), (1, 0), (1, -1)])
def test_an_exponent_that_is_not_one_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        exp_neg(*arguments)
    with pytest.raises(ValueError):
        exp2_neg(*arguments)


@given(st.integers(0, 4000), st.integers(1, 30))
def test_node_mining_is_the_floor_of_the_formula(months: int, denominator: int) -> None:
    a = exactly(Fraction(months, denominator))
    exact = MINING_TOTAL * (1 - mpmath.exp(-a * mpmath.ln(2) / 60))
    assert node_mined(months, denominator) in (int(mpmath.floor(exact)), int(mpmath.nint(exact)))


@given(st.integers(1, 4000), st.integers(1, 30))
def test_task_mining_is_the_floor_of_the_formula(months: int, denominator: int) -> None:
    a = exactly(Fraction(months, denominator))
    exact = MINING_TOTAL * (1 - mpmath.exp(-mpmath.mpf(3) / 10_000 * (a / 2 + mpmath.mpf(4) / 5) ** 2))
    assert task_mined(months, denominator) in (int(mpmath.floor(exact)), int(mpmath.nint(exact)))


def test_the_total_is_two_fifths_of_the_supply_rounded_up() -> None:
    assert TOTAL_SUPPLY == 8_617_333_262 * FUNC
    assert MINING_TOTAL == -(-TOTAL_SUPPLY * 2 // (5 * FUNC)) * FUNC == 3_446_933_305 * FUNC


def test_half_is_mined_after_the_half_life_and_never_more_than_all() -> None:
    assert node_mined(60) * 2 == MINING_TOTAL
    assert node_mined(120) * 4 == MINING_TOTAL * 3
    assert node_mined(10**9) == task_mined(10**9) == MINING_TOTAL


def test_node_rewards_fall_by_the_same_share_every_month() -> None:
    monthly = [node_mined(month + 1) - node_mined(month) for month in range(240)]
    assert all(later < earlier for earlier, later in pairwise(monthly))
    ratio = 2 ** (-1 / 60)
    assert all(later / earlier == pytest.approx(ratio, rel=1e-12) for earlier, later in pairwise(monthly))


def test_task_rewards_start_low_rise_and_fall_again() -> None:
    """The three stages of the Avrami equation; the steepest month is where its second derivative is 0."""
    monthly = [task_mined(month + 1) - task_mined(month) for month in range(1, 400)]
    top = monthly.index(max(monthly))
    assert all(later > earlier for earlier, later in pairwise(monthly[: top + 1]))
    assert all(later < earlier for earlier, later in pairwise(monthly[top:]))
    steepest = ((1 / (2 * 0.0003)) ** 0.5 - 0.8) / 0.5
    assert top + 1 <= steepest <= top + 2
    assert monthly[0] * 10 < monthly[top] and monthly[-1] * 10 < monthly[top]


def test_nothing_is_mined_at_month_0_and_the_formulas_offset_falls_into_the_first_month() -> None:
    assert node_mined(0) == task_mined(0) == 0
    assert task_mined(1) > task_mined(1, 10**30) > 661_000 * FUNC


def test_schedules_pay_out_month_by_month_what_the_formulas_say() -> None:
    for schedule, mined in (
        (node_mining_schedule(120, 720), node_mined),
        (task_mining_schedule(120, 720), task_mined),
    ):
        assert sum(schedule.budget(epoch) for epoch in range(1, 721)) == mined(1)
        assert schedule.cumulative_after(720 * 50) == mined(50)
        assert schedule.total == schedule.cumulative_after(10**9) == mined(120)
        assert schedule.budget(720 * 120 + 1) == 0


def test_a_table_that_decreases_or_is_too_short_is_refused() -> None:
    for cumulative in ((1,), (2, 1), (-1, 1), (0, 2**128)):
        with pytest.raises(ValueError):
            TableSchedule(cumulative, 10)


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(0, 200))
def test_the_effective_month_counts_the_targets_that_were_reached(steps: list[int], done: int) -> None:
    targets = tuple(sum(steps[: i + 1]) for i in range(len(steps)))
    months = effective_months(done, targets)
    assert all(target <= done for target in targets[:months])
    assert all(target > done for target in targets[months:])


@given(
    st.integers(0, 10**30),
    st.dictionaries(st.integers(), st.tuples(st.integers(0, WAD), st.integers(0, 10**7)), max_size=20),
)
def test_shares_by_quality_add_up_and_follow_the_weights(amount: int, work: dict[int, tuple[int, int]]) -> None:
    shares, rest = share_by_quality(amount, work)
    assert sum(shares.values()) + rest == amount
    weights = {node: q * t for node, (q, t) in work.items()}
    if any(weights.values()):
        assert rest < max(len(work), 1)
        everyone = sum(weights.values())
        assert all(shares[node] == amount * weights[node] // everyone for node in work)
    else:
        assert rest == amount


# --- quality of service ---


def test_a_new_node_has_half_the_score_and_a_perfect_one_all() -> None:
    assert Quality().score(0) == WAD // 2
    perfect = Quality()
    for _ in range(POOL):
        perfect = perfect.ranked(10)
    assert perfect.score(0) == WAD


def test_only_the_last_fifty_ranks_count() -> None:
    node = Quality()
    for points in [0] * 7 + [10, 5, 2, 0, 5] * 10:
        node = node.ranked(points)
    assert len(node.ranks) == POOL
    assert node.long_term() == 22 * WAD // 5
    with pytest.raises(ValueError):
        node.ranked(3)


def test_timeouts_multiply_the_health_by_three_tenths() -> None:
    node = Quality().timed_out(100)
    assert node.health_at(100) == 3 * WAD // 10
    assert node.timed_out(100).health_at(100) == 9 * WAD // 100
    assert node.health_at(50) == node.health  # time never runs backwards


@given(st.integers(0, WAD), st.integers(0, 40 * RECOVERY_SECONDS))
def test_the_health_recovers_with_a_time_constant_of_thirty_minutes(health: int, seconds: int) -> None:
    node = Quality(health=health)
    exact = WAD - (WAD - health) * mpmath.exp(-mpmath.mpf(seconds) / RECOVERY_SECONDS)
    assert abs(node.health_at(seconds) - exact) <= 1
    assert health <= node.health_at(seconds) <= WAD
    assert node.health_at(seconds) <= node.health_at(seconds + 1)


# --- the consensus task ---

result = st.one_of(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from(Missing))


def test_two_that_agree_win_and_the_odd_one_is_slashed() -> None:
    verdict = judge([b"x", b"cheat", b"x"])
    assert verdict.fates == (Fate.VALIDATED, Fate.SLASHED, Fate.VALIDATED)
    assert verdict.points == (10, 0, 5)
    assert share_fee(100, verdict) == (67, 0, 33)


def test_three_different_results_abort_and_nobody_is_slashed() -> None:
    verdict = judge([b"x", b"y", b"z"])
    assert verdict.aborted
    assert set(verdict.fates) == {Fate.ABORTED}
    assert verdict.points == (None, None, None)
    assert share_fee(100, verdict) == (0, 0, 0)


def test_a_relay_that_is_down_is_never_held_against_a_node() -> None:
    verdict = judge([b"x", Missing.RELAY_DOWN, b"x"])
    assert verdict.fates[1] is Fate.ABORTED
    assert verdict.points[1] is None
    assert judge([Missing.RELAY_DOWN] * 3).fates == (Fate.ABORTED,) * 3


@given(st.tuples(result, result, result), st.integers(0, 10**24))
def test_a_node_is_slashed_only_where_two_others_agree(results: tuple[bytes | Missing, ...], fee: int) -> None:
    verdict = judge(results)
    for mine, fate in zip(results, verdict.fates, strict=True):
        others = [other for other in results if other != mine]
        agreed = len(others) == 2 and others[0] == others[1] and isinstance(others[0], bytes)
        assert (fate is Fate.SLASHED) == (isinstance(mine, bytes) and agreed)
        assert (fate is Fate.TIMED_OUT) == (mine is Missing.TIMEOUT)
    assert sum(share_fee(fee, verdict)) == (0 if verdict.aborted else fee)


def test_a_consensus_task_has_three_results() -> None:
    with pytest.raises(ValueError):
        judge([b"x", b"x"])


def test_the_drawn_fraction_is_near_what_was_asked_for() -> None:
    drawn = sum(is_drawn(keccak256(word(i)), 1000) for i in range(5000))
    assert 400 < drawn < 600
    assert not is_drawn(bytes(32), 0)
    assert is_drawn(b"\xff" * 32, 10_000)
    with pytest.raises(ValueError):
        is_drawn(bytes(32), 10_001)


def test_nodes_are_drawn_once_each_and_by_weight() -> None:
    weights = {"a": 1, "b": 1, "c": 1, "heavy": 97, "none": 0}
    first = [draw_nodes(keccak256(word(i)), weights)[0] for i in range(300)]
    assert first.count("heavy") > 270
    assert all(len(set(draw_nodes(keccak256(word(i)), weights))) == 3 for i in range(50))
    with pytest.raises(ValueError):
        draw_nodes(bytes(32), {"a": 1, "b": 1, "none": 0})


def test_the_plot_of_both_curves_is_well_formed_svg() -> None:
    root = ElementTree.fromstring(mining_plot(24))
    lines = [line.get("points", "") for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert sum(len(points.split()) == 25 for points in lines) == 2
    with pytest.raises(ValueError):
        mining_plot(0)
