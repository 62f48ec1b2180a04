"""What providers say of the ways between them: a liar gains nothing, and routes follow what is left."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.swarm.route import Latencies, RouteTable, choose_route, route_seconds
from mesh.swarm.told import KEPT_SECONDS, MAX_PAIRS, MAX_PEERS, MAX_TELLERS, MAX_TOLD, ToldTimes
from mesh.swarm.view import ProviderView
from shards.model.span import Span

DEFAULT = 0.002
NAMES = "abcdef"
trips = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1), max_size=6)


def told(**said: dict[str, float]) -> dict[tuple[str, str], float]:
    times = ToldTimes()
    for teller, round_trips in said.items():
        times.hear(teller, round_trips, 0.0)
    return times.between(NAMES, DEFAULT, 1.0)


def test_a_hand_over_takes_half_the_round_trip_that_both_measured() -> None:
    assert told(a={"b": 0.08}, b={"a": 0.06}) == {("a", "b"): 0.04, ("b", "a"): 0.04}
    assert told(a={"b": 0.0002}, b={"a": 0.0002}) == {("a", "b"): 0.0001, ("b", "a"): 0.0001}


def test_what_only_one_says_is_believed_where_it_makes_the_way_longer() -> None:
    assert told(a={"b": 0.08}) == {("a", "b"): 0.04, ("b", "a"): 0.04}
    assert told(a={"b": 0.0}) == {}


def test_a_way_that_is_as_usual_is_left_to_the_default() -> None:
    assert told(a={"b": 2 * DEFAULT}, b={"a": 2.4 * DEFAULT}) == {}


@given(st.dictionaries(st.sampled_from(NAMES), trips, max_size=6), trips)
def test_a_liar_makes_no_way_shorter_than_an_honest_end_or_the_default_says_and_no_foreign_way_longer(
    honest: dict[str, dict[str, float]], lies: dict[str, float]
) -> None:
    honest.pop("f", None)
    without, with_lies = told(**honest), told(**honest, f=lies)
    for pair in {(a, b) for a in NAMES for b in NAMES if a != b}:
        if "f" not in pair:
            assert with_lies.get(pair) == without.get(pair)
        else:
            (other,) = set(pair) - {"f"}
            says = honest.get(other, {}).get("f")
            least = DEFAULT if says is None else min(DEFAULT, says / 2)
            assert with_lies.get(pair, DEFAULT) >= least - 1e-12


def test_what_is_old_or_about_strangers_does_not_count_and_the_newest_word_does() -> None:
    times = ToldTimes()
    times.hear("a", {"b": 0.5, "stranger": 0.5}, 0.0)
    times.hear("a", {"b": 0.08, "a": 0.5}, 10.0)
    assert times.between("ab", DEFAULT, 10.0) == {("a", "b"): 0.04, ("b", "a"): 0.04}
    assert times.between("ab", DEFAULT, 10.0 + KEPT_SECONDS) == {}


def test_nobody_can_fill_our_memory_or_slow_routing_down() -> None:
    times = ToldTimes()
    peers = [f"p{number}" for number in range(2 * MAX_TELLERS)]
    for peer in peers:
        times.hear(peer, dict.fromkeys(peers, 0.1), 0.0)
    assert len(times._told) == MAX_TELLERS
    assert all(len(kept) <= MAX_TOLD for _, kept in times._told.values())
    found = times.between(frozenset(peers), DEFAULT, 1.0)
    assert 0 < len(found) <= MAX_PAIRS
    assert len({peer for pair in found for peer in pair}) <= MAX_PEERS


@given(st.randoms(use_true_random=False))
def test_routes_over_told_times_are_the_cheapest_of_all(rng: random.Random) -> None:
    n_blocks, spans = 6, [(0, 3), (0, 2), (2, 6), (3, 6), (1, 4), (3, 6)]
    providers = [
        ProviderView(name, Span(*span), rng.choice((200.0, 400.0, 2000.0)))
        for name, span in zip(NAMES, spans, strict=True)
    ]
    times = ToldTimes()
    for name in NAMES:
        times.hear(name, {other: rng.choice((0.0002, 0.004, 0.03, 0.2)) for other in NAMES if rng.random() < 0.7}, 0.0)
    between = times.between(NAMES, DEFAULT, 0.0)
    latencies = Latencies(default=DEFAULT, between=between)
    found = route_seconds(choose_route(n_blocks, providers, latencies=latencies), providers, latencies=latencies)
    assert found == pytest.approx(_cheapest(n_blocks, providers, latencies), rel=1e-9)


def _cheapest(n_blocks: int, providers: list[ProviderView], latencies: Latencies) -> float:
    """By trying every chain."""

    def rest(block: int, sender: str | None, used: frozenset[str]) -> float:
        if block == n_blocks:
            return 0.0
        best = float("inf")
        for p in providers:
            if p.peer in used or not p.span.start <= block < p.span.end:
                continue
            way = latencies.default if sender is None else latencies.between.get((sender, p.peer), latencies.default)
            for end in range(block + 1, p.span.end + 1):
                seconds = way + (end - block) / p.block_rate
                best = min(best, seconds + rest(end, p.peer, used | {p.peer}))
        return best

    return rest(0, None, frozenset())


def test_a_session_stays_on_one_side_of_a_long_line() -> None:
    providers = [
        ProviderView(f"{side}{number}", span, 1000.0)
        for side in ("here", "there")
        for number, span in enumerate((Span(0, 4), Span(4, 8), Span(8, 12)))
    ]
    names = [provider.peer for provider in providers]
    times = ToldTimes()
    for name in names:
        times.hear(name, {other: 0.001 if other[0] == name[0] else 0.09 for other in names if other != name}, 0.0)
    between = times.between(names, DEFAULT, 0.0)
    # Slightly faster on the other side: not worth the line.
    uneven = [
        ProviderView(p.peer, p.span, 1200.0 if p.peer in ("here0", "there1") else p.block_rate) for p in providers
    ]
    hops = RouteTable(12, uneven, Latencies(between=between)).choose()
    assert len({hop.peer.rstrip("012") for hop in hops}) == 1
    assert len({hop.peer.rstrip("012") for hop in RouteTable(12, uneven, Latencies()).choose()}) == 2
