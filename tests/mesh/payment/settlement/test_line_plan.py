"""Which lines are funded, thawed and released: within the stake, without haste, and ending where nobody needs them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.settlement.line_plan import (
    MOST_ITEMS,
    MOST_ROUTED,
    FundLines,
    LinesShort,
    LineView,
    ReleaseLine,
    ThawLine,
    plan_lines,
)
from mesh.payment.settlement.windows import Clock

NOW = 50
CLOCK = Clock(NOW, NOW, 4, 9)
LEAST = 1000

wei = st.integers(0, 5 * LEAST)
lines = st.builds(
    LineView,
    provider=st.sampled_from("abcdefgh"),
    amount=wei,
    fees=st.lists(wei, max_size=3).map(tuple),
    short=st.booleans(),
    routed=st.booleans(),
    used_in=st.integers(NOW - 20, NOW),
)
sets_of_lines = st.lists(lines, max_size=8, unique_by=lambda line: line.provider)


def funded(found: list[LineView], spare: int, least: int = LEAST) -> dict[str, int]:
    steps = plan_lines(CLOCK, found, spare=spare, least=least, winding_down=False)
    return {name: amount for step in steps if isinstance(step, FundLines) for name, amount in step.items}


@given(sets_of_lines, st.integers(-LEAST, 20 * LEAST))
def test_lines_take_no_more_than_the_stake_spares_and_come_to_rest(found: list[LineView], spare: int) -> None:
    for _ in range(20):
        given_out = funded(found, spare)
        assert sum(given_out.values()) <= max(0, spare) and all(amount > 0 for amount in given_out.values())
        for each in found:
            if each.provider in given_out:
                assert each.guaranteed + given_out[each.provider] <= each.wanted(LEAST)
        spare -= sum(given_out.values())
        found = [replace(each, amount=each.amount + given_out.get(each.provider, 0)) for each in found]
        if not given_out:
            break
    else:
        raise AssertionError("every round sends a transaction")
    # What is left over is too little for anybody, or everybody has three quarters of what it should have.
    for each in found:
        if each.fees and spare >= LEAST:
            assert 4 * each.guaranteed >= 3 * each.wanted(0)


@given(st.integers(LEAST, 10**9), st.integers(LEAST, 10**9))
def test_work_that_grows_is_covered_all_the_time_by_few_transactions(first: int, growth: int) -> None:
    line, sent = LineView("p"), 0
    fee, last = first, first + growth
    while fee <= last:
        line = replace(line, fees=(fee,))
        added = funded([line], 10**12).get("p", 0)
        sent += added > 0
        line = replace(line, amount=line.amount + added)
        assert line.guaranteed >= 3 * fee // 2
        fee += max(1, fee // 10)
    assert sent <= 2 + 4 * (last // first).bit_length()


def test_those_whom_we_owe_most_come_first_when_the_stake_is_small() -> None:
    owed = [LineView(name, fees=(fee,)) for name, fee in (("a", 10), ("b", 3000), ("c", 500))]
    assert funded(owed, 6500) == {"b": 6000, "c": 500}
    steps = plan_lines(CLOCK, owed, spare=6500, least=0, winding_down=False)
    assert steps == [FundLines((("b", 6000), ("c", 500))), LinesShort(500 + 20)]


def test_a_small_stake_is_divided_among_those_that_we_route_to() -> None:
    for count, spare in product((1, 2, 10, 64, 200), (0, 63, LEAST, 5 * LEAST, 10**6)):
        routed = [LineView(f"p{number:03}", routed=True) for number in range(count)]
        given_out = funded(routed, spare)
        served = min(count, MOST_ITEMS, MOST_ROUTED)
        assert len(given_out) in ((0, served) if spare < 64 else (served,))
        assert len(set(given_out.values())) <= 1
        assert all(amount <= LEAST for amount in given_out.values())


def test_one_that_says_its_line_is_short_gets_all_lately_signed_twice_but_not_what_it_wishes() -> None:
    line = LineView("p", amount=6000, fees=(3000, 2900, 100))
    assert funded([line], 10**9) == {}
    assert funded([replace(line, short=True)], 10**9) == {"p": 2 * 6000 - 6000}
    assert funded([LineView("p", short=True)], 10**9) == {}


def test_unused_lines_thaw_after_two_delays_and_only_those_that_we_funded() -> None:
    for used_in, ours, routed, fees, leaving in product(
        range(NOW - 10, NOW + 1), (False, True), (False, True), ((), (1,)), (False, True)
    ):
        line = LineView(
            "p", amount=10, thawing=3, thaw_end=NOW + 1, fees=fees, routed=routed, used_in=used_in, ours=ours
        )
        steps = plan_lines(CLOCK, [line], spare=0, least=0, winding_down=leaving)
        idle = used_in + 8 < NOW and not routed and not fees
        assert (ThawLine("p", 7) in steps) == (ours and (leaving or idle))
        assert not funded([replace(line, fees=(10**6,))], 0)


def test_what_has_thawed_is_released_unless_it_is_held() -> None:
    for thawing, end, held in product((0, 4), (0, NOW - 1, NOW, NOW + 1), (0, 9, 10)):
        line = LineView("p", amount=10, thawing=thawing, thaw_end=end, held=held, used_in=NOW)
        steps = plan_lines(CLOCK, [line], spare=0, least=0, winding_down=False)
        assert steps == [ReleaseLine("p", end)] * (thawing > 0 and 0 < end <= NOW and held < 10)


def test_a_gateway_that_winds_down_funds_nothing() -> None:
    line = LineView("p", fees=(100,), routed=True)
    assert plan_lines(CLOCK, [line], spare=10**6, least=LEAST, winding_down=True) == []
