"""Peers that the routing table has dropped are asked again, in turn, until they are forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.acquaintances import FORGET_SECONDS, MAX_KNOWN, Acquaintances

peers = st.sets(st.sampled_from([f"peer{number}" for number in range(12)]))


@given(st.lists(st.tuples(peers, st.floats(0, 100)), max_size=20), st.integers(0, 5))
def test_only_missing_peers_that_were_seen_are_asked_and_at_most_so_many(rounds, most) -> None:
    known, now, seen = Acquaintances(["first"], 0.0), 0.0, {"first"}
    for present, pause in rounds:
        now += pause
        known.saw(present, now)
        seen |= present
        asked = known.to_ask(present, most, now)
        assert len(asked) == len(set(asked)) <= most
        assert set(asked) <= seen - present


def test_everybody_gets_a_turn() -> None:
    known = Acquaintances([], 0.0)
    known.saw(["a", "b", "c", "d"], 1.0)
    turns = [known.to_ask(["d"], 2, now) for now in (2.0, 3.0, 4.0)]
    assert turns[0] == ["a", "b"]
    assert turns[1][0] == "c"
    assert {peer for turn in turns for peer in turn} == {"a", "b", "c"}


def test_who_stays_away_is_forgotten_but_not_those_it_started_with() -> None:
    known = Acquaintances(["first"], 0.0)
    known.saw(["a", "b"], 1.0)
    known.saw(["b"], 2.0 + FORGET_SECONDS)
    assert set(known.to_ask([], 10, 3.0 + FORGET_SECONDS)) == {"first", "b"}


def test_it_knows_a_bounded_number_and_the_ones_seen_last() -> None:
    known = Acquaintances(["first"], 0.0)
    for number in range(2 * MAX_KNOWN):
        known.saw([f"peer{number}"], float(number) / 10)
    assert len(known) == MAX_KNOWN
    asked = known.to_ask([], MAX_KNOWN, 1000.0)
    assert "first" in asked
    assert f"peer{2 * MAX_KNOWN - 1}" in asked
    assert "peer0" not in asked
