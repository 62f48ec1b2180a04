"""What a session learns from its own steps: when to ask whether a hop is there, and when to give the route up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.client.deadlines import DeadlineBounds, StepTimes

BOUNDS = DeadlineBounds()
steps = st.lists(st.floats(0, 1e4), min_size=1, max_size=50)


def after(*seconds: float) -> StepTimes:
    times = StepTimes()
    for each in seconds:
        times.observe(each)
    return times


def test_before_the_first_token_the_deadlines_are_those_of_a_prompt():
    assert StepTimes().suspect == BOUNDS.suspect_unknown
    assert StepTimes().lost == BOUNDS.lost_most


def test_a_fast_route_is_suspected_soon_but_never_at_once():
    times = after(*[0.01] * 50)
    assert times.suspect == BOUNDS.suspect_least
    assert times.lost == BOUNDS.lost_least


def test_a_slow_route_is_given_the_time_that_it_needs():
    times = after(*[1.0] * 50)
    assert times.usual == pytest.approx(1.0, abs=0.01)
    assert times.suspect == pytest.approx(4.0, abs=0.05)
    assert times.lost == BOUNDS.lost_most


def test_an_uneven_route_is_given_more_time_than_an_even_one_of_the_same_mean():
    assert after(*[0.2, 0.8] * 30).suspect > after(*[0.5] * 60).suspect


def test_a_route_that_becomes_fast_is_soon_suspected_sooner():
    assert after(*[2.0] * 20, *[0.05] * 40).suspect < after(*[2.0] * 20).suspect / 2


@given(steps)
def test_deadlines_stay_within_their_bounds_and_suspicion_comes_before_loss(seconds: list[float]):
    times = after(*seconds)
    assert BOUNDS.suspect_least <= times.suspect <= BOUNDS.suspect_most
    assert BOUNDS.lost_least <= times.lost <= BOUNDS.lost_most
    assert times.suspect <= times.lost


@given(st.floats(0.001, 100), st.integers(2, 40))
def test_equal_steps_are_learned_exactly(seconds: float, count: int):
    assert seconds <= (after(*[seconds] * count).usual or 0.0) <= 3 * seconds
