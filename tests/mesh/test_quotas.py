"""What one peer may take: rates, and bytes of frames that are not whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.transport.quotas import MOST_PEERS, Rate, Rates, Unfinished


def test_a_burst_passes_and_then_the_rate() -> None:
    rate = Rate(per_second=10.0, burst=5.0)

    assert [rate.wait(100.0) for _ in range(5)] == [0.0] * 5
    assert rate.wait(100.0) == pytest.approx(0.1)
    assert rate.wait(100.0) == pytest.approx(0.2)
    assert rate.wait(101.0) == 0.0


def test_what_is_refused_does_not_count() -> None:
    rate = Rate(per_second=1.0, burst=2.0)

    assert [rate.take(0.0) for _ in range(100)] == [True, True] + [False] * 98
    assert rate.take(1.1)
    assert not rate.take(1.2)


@given(st.lists(st.floats(0, 0.2), max_size=200))
def test_no_more_passes_than_burst_and_rate_allow(pauses: list[float]) -> None:
    rate = Rate(per_second=20.0, burst=7.0)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        passed += rate.take(now)
    assert passed <= 7 + 20 * now + 1e-6


def test_a_clock_that_steps_back_gives_nothing() -> None:
    rate = Rate(per_second=1.0, burst=1.0)
    assert rate.take(10.0)
    assert not rate.take(5.0)
    assert not rate.take(10.5)
    assert rate.take(11.1)


def test_each_peer_has_its_own_rate_and_the_number_of_peers_is_bounded() -> None:
    rates = Rates(1.0, 1.0)
    assert rates.of("a").take(0.0)
    assert rates.of("b").take(0.0)
    assert not rates.of("a").take(0.0)
    for number in range(MOST_PEERS + 10):
        rates.of(f"peer {number}").take(0.0)
    assert len(rates._rates) == MOST_PEERS


def unfinished(total: int = 100, per_peer: int = 60) -> Unfinished[str]:
    """Holders are named `peer/number`."""
    return Unfinished(total=total, per_peer=per_peer, peer_of=lambda holder: holder.partition("/")[0])


def test_within_the_bounds_nobody_has_to_go() -> None:
    books = unfinished()
    assert [books.hold(f"{peer}/0", 30) for peer in "abc"] == [None] * 3
    assert books.held == 90
    assert [books.hold(f"{peer}/0", 0) for peer in "abc"] == [None] * 3
    assert books.held == 0


def test_over_a_peers_bound_its_own_oldest_frame_has_to_go() -> None:
    books = unfinished()
    assert books.hold("other/0", 10) is None
    assert books.hold("a/0", 40) is None
    assert books.hold("a/1", 15) is None
    assert books.hold("a/1", 25) == "a/0"


def test_over_the_common_bound_the_frame_that_began_first_has_to_go() -> None:
    books = unfinished()
    assert books.hold("slow/0", 10) is None
    assert books.hold("a/0", 50) is None
    assert books.hold("b/0", 45) == "slow/0"
    assert books.hold("slow/0", 0) is None
    assert books.hold("b/0", 46) is None


def test_a_frame_that_was_finished_is_young_again() -> None:
    books = unfinished()
    books.hold("a/0", 50)
    books.hold("b/0", 40)
    books.hold("a/0", 0)
    books.hold("a/0", 20)
    assert books.hold("c/0", 50) == "b/0"


@given(st.lists(st.tuples(st.sampled_from(("a/0", "a/1", "b/0", "c/0")), st.integers(0, 50)), max_size=60))
def test_the_sum_is_that_of_all_who_hold(steps: list[tuple[str, int]]) -> None:
    books, expected = unfinished(), {}
    for holder, size in steps:
        expected[holder] = size
        if (victim := books.hold(holder, size)) is not None:
            books.hold(victim, 0)
            expected[victim] = 0
        assert books.held == sum(expected.values()) <= 100 + 50, "at most one frame over the bound"
