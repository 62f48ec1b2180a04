"""Routes: every block exactly once, nobody twice, as cheap as the cheapest there is."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import NoRoute, Refused
from mesh.swarm.route import Hop, Latencies, RouteTable, choose_route, route_seconds
from mesh.swarm.view import ProviderView, gaps
from shards.model.span import Span


@st.composite
def swarms(draw: st.DrawFn, max_blocks: int = 6, max_peers: int = 5) -> tuple[int, list[ProviderView], Latencies]:
    n_blocks = draw(st.integers(1, max_blocks))
    providers = []
    for number in range(draw(st.integers(0, max_peers))):
        start = draw(st.integers(0, n_blocks - 1))
        span = Span(start, draw(st.integers(start + 1, n_blocks)))
        rate = draw(st.sampled_from((0.0, 1.0, 3.0, 10.0, 50.0, 1000.0)))
        serving = draw(st.sampled_from((True, True, True, True, False)))
        load, link = draw(st.integers(0, 2)), draw(st.sampled_from((math.inf, math.inf, 5.0)))
        providers.append(ProviderView(f"p{number}", span, rate, serving, load, link_rate=link))
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


@settings(max_examples=200, deadline=None)
@given(swarms(), st.data())
def test_loads_and_penalties_given_at_choosing_count_as_if_the_view_had_them(
    swarm: tuple[int, list[ProviderView], Latencies], data: st.DataObject
) -> None:
    n_blocks, providers, latencies = swarm
    names = [provider.peer for provider in providers]
    if not names:
        return
    loads = data.draw(st.dictionaries(st.sampled_from(names), st.integers(0, 5)))
    factors = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from((1.0, 4.0, 1e6))))
    slower = [
        replace(
            p,
            load=max(p.load, loads.get(p.peer, 0)),
            block_rate=(p.block_rate or 100.0) / factors.get(p.peer, 1.0),
            link_rate=p.link_rate / factors.get(p.peer, 1.0),
        )
        for p in providers
    ]
    chains = every_chain(n_blocks, providers)
    if not chains:
        return

    hops = RouteTable(n_blocks, providers, latencies).choose(loads=loads, factors=factors)

    check(n_blocks, providers, hops)
    best = min(route_seconds(chain, slower, latencies=latencies) for chain in chains)
    assert route_seconds(hops, slower, latencies=latencies) == pytest.approx(best)


@given(swarms(), st.data())
def test_where_all_are_full_it_says_how_long_to_wait(
    swarm: tuple[int, list[ProviderView], Latencies], data: st.DataObject
) -> None:
    n_blocks, providers, latencies = swarm
    busy = {p.peer: data.draw(st.sampled_from((0.0, 0.5, 2.0, 7.0))) for p in providers}
    serving = [p for p in providers if p.serving]
    table = RouteTable(n_blocks, providers, latencies)
    free = [p for p in serving if not busy[p.peer]]
    if not gaps(n_blocks, free):
        assert all(not busy[hop.peer] for hop in table.choose(busy=busy))
    elif gaps(n_blocks, serving):
        with pytest.raises(NoRoute):
            table.choose(busy=busy)
    else:
        with pytest.raises(Refused) as caught:
            table.choose(busy=busy)
        wait = caught.value.retry_after
        assert wait > 0
        later = {peer: seconds - wait for peer, seconds in busy.items()}
        check(n_blocks, providers, table.choose(busy=later))
        sooner = {peer: seconds - wait + 0.1 for peer, seconds in busy.items()}
        with pytest.raises(Refused):
            table.choose(busy=sooner)


def test_a_gap_says_when_it_is_worth_trying_again() -> None:
    def wait(*providers: ProviderView, excluded: tuple[str, ...] = ()) -> float | None:
        with pytest.raises(NoRoute) as caught:
            choose_route(4, providers, excluded=excluded)
        return caught.value.retry_after

    half, rest = ProviderView("a", Span(0, 2), 1.0), ProviderView("b", Span(2, 4), 1.0)
    nobody = wait(half)
    loading = wait(half, replace(rest, serving=False))
    failed = wait(half, rest, excluded=("b",))
    assert nobody is not None and loading is not None and failed is not None
    assert failed < loading < nobody


def test_sessions_of_many_clients_spread_over_replicas_that_are_nearly_as_good() -> None:
    providers = [ProviderView(f"p{i}", Span(0, 4), 100.0 + i / 10) for i in range(8)]
    table = RouteTable(4, providers)
    numbers = np.random.default_rng(1)
    alone = {table.choose()[0].peer for _ in range(20)}
    spread = {table.choose(noise=0.05 * numbers.random(8))[0].peer for _ in range(200)}
    assert alone == {"p7"}
    assert len(spread) == 8


def test_one_clients_sessions_spread_over_replicas_by_speed() -> None:
    providers = [ProviderView("fast", Span(0, 4), 300.0), ProviderView("slow", Span(0, 4), 100.0)]
    table = RouteTable(4, providers)
    loads: dict[str, int] = {}
    for _ in range(40):
        (hop,) = table.choose(loads=loads)
        loads[hop.peer] = loads.get(hop.peer, 0) + 1
    assert loads == {"fast": 30, "slow": 10}


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


@pytest.mark.parametrize("senders", [0, 50, 200])
def test_a_route_among_ten_thousand_takes_five_milliseconds_of_a_core(senders: int) -> None:
    """Of the thread's own time, since the machine may be busy; the table is made once per look at the directory."""
    numbers = random.Random(3)
    names = [f"peer{number}" for number in range(senders)]
    latencies = Latencies(
        default=0.03,
        to_first={f"peer{number}": numbers.uniform(0.001, 0.1) for number in range(200)},
        between={(one, other): numbers.uniform(0.001, 0.1) for one in names for other in numbers.sample(names, 8)},
    )
    providers = random_swarm(10_000, 80, seed=1)
    table = RouteTable(80, providers, latencies)
    taken = []
    for _ in range(9):
        began = time.thread_time()
        hops = table.choose(loads={"peer7": 4}, factors={"peer8": 100.0}, excluded=["peer9"])
        taken.append(time.thread_time() - began)
    check(80, providers, hops)
    assert min(taken) < 0.005


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


def test_of_two_equal_providers_the_one_with_the_better_link_is_taken() -> None:
    slow = ProviderView("slow", Span(0, 4), 100.0, link_rate=20.0)
    fast = ProviderView("fast", Span(0, 4), 90.0, link_rate=2000.0)
    assert [hop.peer for hop in choose_route(4, [slow, fast])] == ["fast"]
    assert route_seconds((Hop("slow", Span(0, 4)),), [slow], latencies=Latencies(default=0.0)) == pytest.approx(
        4 / 100 + 1 / 20
    )
