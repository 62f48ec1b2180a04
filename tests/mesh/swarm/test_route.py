"""Routes: every block exactly once, nobody twice, as cheap as the cheapest there is."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import NoRoute
from mesh.swarm.route import Hop, Latencies, choose_route, route_seconds
from mesh.swarm.view import ProviderView, gaps
from shards.span import Span


@st.composite
def swarms(draw: st.DrawFn, max_blocks: int = 6, max_peers: int = 5) -> tuple[int, list[ProviderView], Latencies]:
    n_blocks = draw(st.integers(1, max_blocks))
    providers = []
    for number in range(draw(st.integers(0, max_peers))):
        start = draw(st.integers(0, n_blocks - 1))
        span = Span(start, draw(st.integers(start + 1, n_blocks)))
        rate = draw(st.sampled_from((0.0, 1.0, 3.0, 10.0, 50.0, 1000.0)))
        serving = draw(st.sampled_from((True, True, True, True, False)))
        providers.append(ProviderView(f"p{number}", span, rate, serving, draw(st.integers(0, 2))))
    names = st.sampled_from([f"p{number}" for number in range(max_peers)])
    seconds = st.sampled_from((0.0, 0.001, 0.05, 0.4, 3.0))
    latencies = Latencies(
        default=draw(seconds),
        to_first=draw(st.dictionaries(names, seconds, max_size=3)),
        between=draw(st.dictionaries(st.tuples(names, names), seconds, max_size=6)),
    )
    return n_blocks, providers, latencies


def every_chain(n_blocks: int, providers: list[ProviderView], before: tuple[Hop, ...] = ()) -> list[tuple[Hop, ...]]:
    """All chains of different serving providers that cover every block once, by trying everything."""
    block = before[-1].span.end if before else 0
    if block == n_blocks:
        return [before]
    found = []
    for provider in providers:
        taken = any(hop.peer == provider.peer for hop in before)
        if provider.serving and not taken and provider.span.start <= block:
            for end in range(block + 1, provider.span.end + 1):
                found += every_chain(n_blocks, providers, (*before, Hop(provider.peer, Span(block, end))))
    return found


def check(n_blocks: int, providers: list[ProviderView], hops: tuple[Hop, ...]) -> None:
    """The chain is one that could be served."""
    views = {provider.peer: provider for provider in providers}
    assert hops[0].span.start == 0
    assert hops[-1].span.end == n_blocks
    assert all(left.span.end == right.span.start for left, right in pairwise(hops))
    assert len({hop.peer for hop in hops}) == len(hops)
    assert all(views[hop.peer].serving and views[hop.peer].span.covers(hop.span) for hop in hops)


@settings(max_examples=400, deadline=None)
@given(swarms())
def test_the_route_is_as_cheap_as_the_cheapest_of_all_chains(
    swarm: tuple[int, list[ProviderView], Latencies],
) -> None:
    n_blocks, providers, latencies = swarm
    chains = every_chain(n_blocks, providers)
    if not chains:
        with pytest.raises(NoRoute):
            choose_route(n_blocks, providers, latencies=latencies)
        return

    hops = choose_route(n_blocks, providers, latencies=latencies)

    check(n_blocks, providers, hops)
    best = min(route_seconds(chain, providers, latencies=latencies) for chain in chains)
    assert route_seconds(hops, providers, latencies=latencies) == pytest.approx(best)


@settings(max_examples=200, deadline=None)
@given(swarms(max_blocks=30, max_peers=14))
def test_whenever_no_block_is_missing_there_is_a_route_even_when_the_search_is_cut_off(
    swarm: tuple[int, list[ProviderView], Latencies],
) -> None:
    n_blocks, providers, latencies = swarm
    if gaps(n_blocks, [provider for provider in providers if provider.serving]):
        return
    for budget in (0, 3, 20_000):
        hops = choose_route(n_blocks, providers, latencies=latencies, max_expansions=budget)
        check(n_blocks, providers, hops)


def test_excluded_peers_and_those_that_still_load_are_avoided() -> None:
    providers = [
        ProviderView("best", Span(0, 4), 1000.0),
        ProviderView("loading", Span(0, 4), 900.0, serving=False),
        ProviderView("spare", Span(0, 4), 10.0),
    ]
    assert choose_route(4, providers) == (Hop("best", Span(0, 4)),)
    assert choose_route(4, providers, excluded={"best"}) == (Hop("spare", Span(0, 4)),)


def test_a_gap_is_named_and_says_whether_excluded_peers_make_it() -> None:
    providers = [ProviderView("a", Span(0, 2), 1.0), ProviderView("b", Span(3, 5), 1.0)]

    with pytest.raises(NoRoute, match=r"blocks 2:3, 5:6 of 6 are not served by anybody"):
        choose_route(6, providers)
    with pytest.raises(NoRoute, match=r"blocks 0:3, 5:6 of 6 are served only by peers that just failed"):
        choose_route(6, providers, excluded={"a"})
    with pytest.raises(NoRoute, match=r"blocks 0:6 of 6 are not served"):
        choose_route(6, [])


def test_a_provider_whose_span_is_not_this_models_is_ignored() -> None:
    with pytest.raises(NoRoute):
        choose_route(2, [ProviderView("a", Span(0, 3), 1.0)])


def test_load_moves_a_session_to_the_less_busy_of_equals() -> None:
    providers = [ProviderView("a", Span(0, 2), 100.0, load=3), ProviderView("b", Span(0, 2), 100.0, load=1)]
    assert choose_route(2, providers)[0].peer == "b"


def test_a_slow_peer_that_holds_everything_is_not_entered_twice() -> None:
    """The cheapest walk would return to `slow` between the fast ones; the cheapest route may not."""
    fast = [ProviderView(f"fast{i}", Span(10 * i + 2, 10 * i + 9), 1e6) for i in range(8)]
    providers = [ProviderView("slow", Span(0, 80), 10.0), *fast]

    hops = choose_route(80, providers)

    assert hops == (Hop("slow", Span(0, 80)),)


def random_swarm(peers: int, n_blocks: int, seed: int) -> list[ProviderView]:
    numbers = random.Random(seed)
    providers = []
    for peer in range(peers):
        length = numbers.randint(4, 30)
        start = numbers.randint(0, n_blocks - length)
        rate = numbers.choice((200.0, 1000.0, 5000.0)) * numbers.uniform(0.8, 1.2)
        providers.append(ProviderView(f"peer{peer}", Span(start, start + length), rate, load=numbers.randint(0, 3)))
    return providers


@pytest.mark.parametrize(("peers", "seconds"), [(1000, 0.1), (10_000, 0.3)])
def test_thousands_of_providers_are_no_hindrance(peers: int, seconds: float) -> None:
    """The bounds are for a busy machine; alone it takes about a tenth of that."""
    providers = random_swarm(peers, 80, seed=1)
    known = {f"peer{i}": 0.02 for i in range(0, 200, 3)}
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        hops = choose_route(80, providers, latencies=Latencies(to_first=known))
        taken.append(time.perf_counter() - began)
    check(80, providers, hops)
    assert min(taken) < seconds


def test_a_swarm_made_to_defeat_the_search_gets_a_route_in_bounded_time() -> None:
    holes = {block for block in range(60) if block % 3 == 0}
    hostile = [ProviderView("only", Span(0, 60), 1.0)]
    hostile += [
        ProviderView(f"q{block}-{copy}", Span(block, block + 1), 1e6 - copy)
        for block in set(range(60)) - holes
        for copy in range(20)
    ]
    began = time.perf_counter()
    hops = choose_route(60, hostile)

    assert time.perf_counter() - began < 10.0
    check(60, hostile, hops)
