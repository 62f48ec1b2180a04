"""What a client remembers of peers: penalties fade, full peers are asked again in time, slow hand-overs stand out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.swarm.standing import MAX_REMEMBERED, MEMORY_SECONDS, FullPeers, HopTimes, Penalties


def test_a_penalty_fades_and_is_forgotten() -> None:
    penalties = Penalties(half_life=3.0)
    assert penalties.factor("a", 0.0) == 1.0
    penalties.blame("a", 10.0)
    assert "a" in penalties and list(penalties) == ["a"] and len(penalties) == 1
    fresh = penalties.factor("a", 10.0)
    assert fresh > 1e5
    assert penalties.factor("a", 13.0) == pytest.approx(1 + (fresh - 1) / 2)
    assert penalties.factor("a", 100.0) == pytest.approx(1.0, abs=0.01)
    assert penalties.factors(100.0) == {}
    penalties.blame("b", 100.0)
    assert set(penalties) == {"b"}


def test_who_fails_again_is_worse_for_longer() -> None:
    once, twice = Penalties(), Penalties()
    once.blame("a", 20.0)
    twice.blame("a", 10.0)
    twice.blame("a", 20.0)
    assert twice.factor("a", 20.0) > 5 * once.factor("a", 20.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1000)), max_size=40), st.floats(0, 2000))
def test_no_penalty_is_less_than_none_or_without_bound(events: list[tuple[str, float]], now: float) -> None:
    penalties = Penalties()
    for peer, at in sorted(events, key=lambda event: event[1]):
        penalties.blame(peer, at)
    assert all(1.0 <= penalties.factor(peer, max(now, at)) <= 1e12 + 1 for peer, at in events)


def test_strangers_cannot_fill_the_memory() -> None:
    penalties, full, hops = Penalties(), FullPeers(), HopTimes()
    for number in range(MAX_REMEMBERED + 10):
        penalties.blame(f"p{number}", 0.0)
        full.refused(f"p{number}", 5.0, 0.0)
        hops.learn([f"p{number}", "q"], 1.0, 0.5, 0.0)
    assert len(penalties) == MAX_REMEMBERED == len(full.waits(0.0)) == len(hops.between(0.0))


def test_a_full_peer_is_left_alone_until_it_said_and_no_longer_than_a_minute() -> None:
    full = FullPeers()
    full.refused("a", 2.0, 10.0)
    full.refused("b", 1e9, 10.0)
    full.refused("c", 0.0, 10.0)
    assert full.waits(11.0) == {"a": 1.0, "b": 59.0}
    assert full.waits(12.0) == {"b": 58.0}
    assert full.waits(80.0) == {}


def test_a_slow_hand_over_stands_out_of_the_sessions_that_share_it() -> None:
    hops = HopTimes()
    for _ in range(30):
        hops.learn(["a", "b"], 0.30, 0.10, 0.0)  # a to b and back: 0.2
        hops.learn(["a", "c"], 0.12, 0.10, 0.0)
    between = hops.between(1.0)
    assert between["a", "b"] == pytest.approx(0.1)
    assert between["a", "c"] == pytest.approx(0.01)
    assert ("b", "a") not in between
    assert hops.between(MEMORY_SECONDS + 1.0) == {}


def test_a_session_faster_than_expected_counts_as_no_time_and_one_stage_has_no_hand_over() -> None:
    hops = HopTimes()
    hops.learn(["a", "b"], 0.1, 0.5, 0.0)
    hops.learn(["a"], 0.5, 0.1, 0.0)
    assert hops.between(0.0) == {("a", "b"): 0.0}
