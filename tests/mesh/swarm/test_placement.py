"""Placement: who joins takes what the swarm needs most, and those who join together end up apart."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.swarm.placement import Claim, choose_span, default_max_blocks, settle
from mesh.swarm.view import ProviderView, gaps, replicas_per_block, throughput_per_block
from shards.model.span import Span


def join_in_turn(n_blocks: int, nodes: int, max_blocks: int, rate: float = 100.0) -> list[ProviderView]:
    providers: list[ProviderView] = []
    for number in range(nodes):
        span = choose_span(n_blocks, providers, max_blocks)
        providers.append(ProviderView(f"p{number}", span, rate))
    return providers


def test_three_equal_nodes_cut_any_model_in_three_even_parts_without_overlap() -> None:
    for n_blocks in (n for n in range(3, 201) if n != 4):
        providers = join_in_turn(n_blocks, 3, default_max_blocks(n_blocks))

        assert replicas_per_block(n_blocks, providers) == [1] * n_blocks
        sizes = [len(provider.span) for provider in providers]
        assert max(sizes) - min(sizes) <= 1, n_blocks


@pytest.mark.parametrize(("n_blocks", "spans"), [(1, "0:1 0:1 0:1"), (2, "0:1 1:2 0:1"), (4, "0:2 2:4 0:2")])
def test_what_cannot_be_cut_in_three_is_cut_in_fewer_and_replicated(n_blocks: int, spans: str) -> None:
    """Four blocks fit into two nodes of two blocks; a cut in three would only add a hop."""
    providers = join_in_turn(n_blocks, 3, default_max_blocks(n_blocks))
    assert " ".join(str(provider.span) for provider in providers) == spans


@given(st.integers(1, 200), st.integers(1, 250))
def test_equal_nodes_cover_a_model_with_the_fewest_spans_that_hold_it(n_blocks: int, capacity: int) -> None:
    fewest = -(-n_blocks // min(capacity, n_blocks))
    providers = join_in_turn(n_blocks, fewest, capacity)

    assert replicas_per_block(n_blocks, providers) == [1] * n_blocks
    assert all(len(provider.span) <= capacity for provider in providers)


@given(st.data())
def test_a_gap_is_filled_before_anything_is_replicated(data: st.DataObject) -> None:
    n_blocks = data.draw(st.integers(2, 60))
    providers = []
    for number in range(data.draw(st.integers(0, 5))):
        start = data.draw(st.integers(0, n_blocks - 1))
        span = Span(start, data.draw(st.integers(start + 1, n_blocks)))
        providers.append(ProviderView(f"p{number}", span, data.draw(st.sampled_from((0.0, 0.1, 1e6)))))
    missing = gaps(n_blocks, providers)
    capacity = data.draw(st.integers(1, 80))

    span = choose_span(n_blocks, providers, capacity)

    assert span.end <= n_blocks
    assert len(span) <= capacity
    if missing:
        largest = max(len(gap) for gap in missing)
        assert any(gap.covers(span) and len(gap) == largest for gap in missing)
    else:
        rates = throughput_per_block(n_blocks, providers)
        assert min(rates) in [rates[block] for block in span], "it takes a weakest block"


@given(st.data())
def test_what_is_offered_is_used_whole_and_for_as_much_of_the_gap_as_it_can_hold(data: st.DataObject) -> None:
    n_blocks = data.draw(st.integers(2, 40))
    providers = []
    for number in range(data.draw(st.integers(0, 5))):
        start = data.draw(st.integers(0, n_blocks - 1))
        span = Span(start, data.draw(st.integers(start + 1, n_blocks)))
        providers.append(ProviderView(f"p{number}", span, data.draw(st.sampled_from((0.1, 100.0)))))
    missing = {block for gap in gaps(n_blocks, providers) for block in gap}
    capacity = data.draw(st.integers(1, n_blocks))

    span = choose_span(n_blocks, providers, capacity, fill=True)

    assert span.end <= n_blocks
    if missing:
        assert len(span) == capacity
        windows = [Span(start, start + capacity) for start in range(n_blocks - capacity + 1)]
        assert len(missing & set(span)) == max(len(missing & set(window)) for window in windows)


def test_a_fourth_node_replicates_the_weakest_part() -> None:
    providers = [
        ProviderView("a", Span(0, 4), 400.0),
        ProviderView("b", Span(4, 8), 90.0),
        ProviderView("c", Span(8, 12), 400.0),
    ]
    assert choose_span(12, providers, 4) == Span(4, 8)


def test_a_small_node_helps_inside_the_weakest_part() -> None:
    providers = [ProviderView("a", Span(0, 4), 400.0), ProviderView("b", Span(4, 8), 90.0)]
    assert Span(4, 8).covers(choose_span(8, providers, 2))


@given(
    n_blocks=st.integers(1, 60),
    nodes=st.integers(1, 12),
    capacity=st.integers(1, 30),
    scale=st.sampled_from((1.0, 7.3, 100.0, 1e6)),
    serving=st.booleans(),
    numbers=st.randoms(use_true_random=False),
)
@example(n_blocks=53, nodes=8, capacity=24, scale=1.0, serving=False, numbers=random.Random(0))
def test_neither_the_order_in_which_nodes_are_seen_nor_the_unit_of_their_rates_changes_a_choice(
    n_blocks: int, nodes: int, capacity: int, scale: float, serving: bool, numbers: random.Random
) -> None:
    providers: list[ProviderView] = []
    for number in range(nodes):
        span = choose_span(n_blocks, providers, capacity)
        seen = [ProviderView(p.peer, p.span, scale, serving=serving) for p in numbers.sample(providers, number)]
        assert choose_span(n_blocks, seen, capacity) == span
        renamed = [ProviderView(f"q{n}", p.span, scale, serving=serving) for n, p in enumerate(seen)]
        assert choose_span(n_blocks, renamed, capacity) == span, "added up in another order"
        providers.append(ProviderView(f"p{number}", span, 100.0))


class Joiners:
    """Nodes that choose at the same time, each by what it last saw of the others."""

    def __init__(self, n_blocks: int, names: list[str], capacity: int, committed: list[ProviderView]) -> None:
        self.n_blocks = n_blocks
        self.capacity = capacity
        self.committed = committed
        self.claims: dict[str, Span] = {}
        self.seen: dict[str, dict[str, Span]] = {name: {} for name in names}

    def look(self, name: str) -> None:
        """See all claims as they are now."""
        self.seen[name] = {peer: span for peer, span in self.claims.items() if peer != name}

    def choose(self, name: str) -> bool:
        """Claim by what was last seen; True when the claim has not changed."""
        claims = [Claim(peer, span) for peer, span in self.seen[name].items()]
        span = settle(self.n_blocks, self.committed, claims, name, self.capacity)
        same = self.claims.get(name) == span
        self.claims[name] = span
        return same

    def replicas(self) -> list[int]:
        views = [ProviderView(peer, span, 1.0, serving=False) for peer, span in self.claims.items()]
        return replicas_per_block(self.n_blocks, [*self.committed, *views])


@settings(max_examples=150, deadline=None)
@given(
    n_blocks=st.integers(1, 60),
    joining=st.integers(1, 8),
    capacity=st.integers(1, 30),
    seed=st.integers(0, 10_000),
    stale_rounds=st.integers(0, 12),
)
@example(n_blocks=53, joining=8, capacity=24, seed=0, stale_rounds=0)  # rates that only rounding tells apart
def test_simultaneous_claims_converge_to_what_joining_in_turn_gives(
    n_blocks: int, joining: int, capacity: int, seed: int, stale_rounds: int
) -> None:
    """Whatever they have seen late or never, as many rounds with a fresh view as there are nodes set it right."""
    numbers = random.Random(seed)
    names = [f"peer{number}" for number in range(joining)]
    joiners = Joiners(n_blocks, names, capacity, [])
    for _ in range(stale_rounds):
        for name in numbers.sample(names, numbers.randint(1, joining)):
            if numbers.random() < 0.5:
                joiners.look(name)
            joiners.choose(name)
    for _ in range(joining + 1):
        for name in names:
            joiners.look(name)
        steady = [joiners.choose(name) for name in numbers.sample(names, joining)]

    assert all(steady)
    in_turn = join_in_turn(n_blocks, joining, capacity)
    assert [joiners.claims[name] for name in names] == [provider.span for provider in in_turn]


@settings(max_examples=60, deadline=None)
@given(n_blocks=st.integers(6, 90), joining=st.integers(2, 3), seed=st.integers(0, 10_000), delay=st.integers(0, 1))
def test_nodes_that_commit_after_two_steady_rounds_do_not_overlap(
    n_blocks: int, joining: int, seed: int, delay: int
) -> None:
    """As `mesh join` does it: a round takes longer than a claim needs to be seen (`delay` 1: the round after)."""
    numbers = random.Random(seed)
    names = [f"peer{number}" for number in range(joining)]
    joiners = Joiners(n_blocks, names, default_max_blocks(n_blocks), [])
    steady = dict.fromkeys(names, 0)
    history: list[dict[str, Span]] = [{}]
    for _ in range(4 * joining):
        visible = history[max(0, len(history) - 1 - delay)]
        for name in numbers.sample(names, joining):
            joiners.seen[name] = {peer: span for peer, span in visible.items() if peer != name}
            if steady[name] < 2:
                steady[name] = steady[name] + 1 if joiners.choose(name) else 0
        history.append(dict(joiners.claims))

    assert all(count >= 2 for count in steady.values())
    assert max(joiners.replicas()) == 1


def test_nodes_that_join_a_complete_swarm_together_replicate_different_parts() -> None:
    committed = [ProviderView(f"old{i}", Span(4 * i, 4 * i + 4), 500.0) for i in range(3)]
    names = ["new0", "new1", "new2"]
    joiners = Joiners(12, names, 4, committed)
    for _ in range(len(names) + 1):
        for name in names:
            joiners.look(name)
        for name in names:
            joiners.choose(name)

    assert joiners.replicas() == [2] * 12


def test_a_node_that_still_loads_counts_as_one_that_will_serve() -> None:
    providers = [
        ProviderView("a", Span(0, 4), 500.0),
        ProviderView("b", Span(4, 8), 500.0),
        ProviderView("loads", Span(0, 4), 1.0, serving=False),
    ]
    assert choose_span(8, providers, 4) == Span(4, 8)


def test_a_span_beyond_the_model_does_not_mislead() -> None:
    liar = [ProviderView("liar", Span(0, 500), 1e9)]
    assert choose_span(8, liar, 4).end <= 8
