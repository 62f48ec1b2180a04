"""Moves: gaps are closed, the weak are helped, nothing is opened, and nodes come to rest."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations, product

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.swarm.placement import choose_span
from mesh.swarm.rebalance import may_leave, rebalance, repair
from mesh.swarm.view import ProviderView, gaps, throughput_per_block
from shards.model.span import Span


def node(peer: str, start: int, end: int, most: int = 0, rate: float = 100.0, serving: bool = True) -> ProviderView:
    return ProviderView(peer, Span(start, end), rate, serving, max_blocks=most)


def moved(providers: list[ProviderView], moves: dict[str, Span]) -> list[ProviderView]:
    return [replace(p, span=moves.get(p.peer, p.span)) for p in providers]


def missing(n_blocks: int, providers: list[ProviderView]) -> int:
    return sum(len(gap) for gap in gaps(n_blocks, providers))


@st.composite
def swarms(draw: st.DrawFn, max_blocks: int = 30, max_nodes: int = 10) -> tuple[int, list[ProviderView]]:
    n_blocks = draw(st.integers(1, max_blocks))
    providers = []
    for number in range(draw(st.integers(1, max_nodes))):
        start = draw(st.integers(0, n_blocks - 1))
        end = draw(st.integers(start + 1, n_blocks))
        most = draw(st.one_of(st.just(0), st.integers(end - start, n_blocks)))
        rate = draw(st.sampled_from((20.0, 100.0, 300.0)))
        providers.append(node(f"p{number}", start, end, most, rate, draw(st.sampled_from((True, True, True, False)))))
    return n_blocks, providers


def test_the_neighbour_of_a_gap_takes_it_on_as_well_when_nobody_is_spare() -> None:
    providers = [node("a", 0, 2, most=2), node("b", 2, 4, most=3)]
    assert repair(5, providers) == {"b": Span(2, 5)}
    assert rebalance(5, providers, "a") is None
    assert rebalance(5, providers, "b") == Span(2, 5)


def test_a_spare_replica_goes_before_a_needed_node_takes_more() -> None:
    providers = [node("a", 0, 2, most=5), node("b", 2, 4, most=5), node("c", 0, 2, most=1)]
    assert repair(5, providers) == {"a": Span(4, 5)}


def test_nodes_shift_along_when_the_gap_is_too_large_for_its_neighbour() -> None:
    providers = [node("b", 2, 4, most=3), node("c", 4, 5, most=3)]
    moves = repair(5, providers)
    assert not gaps(5, moved(providers, moves))
    assert all(len(span) <= 3 for span in moves.values())


def test_a_gap_that_cannot_be_filled_stays_and_nobody_moves_in_vain() -> None:
    assert repair(5, [node("a", 0, 2, most=2), node("b", 2, 4, most=2)]) == {}


def test_who_may_not_move_does_not() -> None:
    assert repair(5, [node("a", 0, 4), node("b", 0, 4)]) == {}
    assert rebalance(4, [node("a", 0, 4), node("b", 0, 2), node("c", 0, 2), node("d", 0, 4)], "b") is None


@settings(max_examples=300, deadline=None)
@given(swarms())
def test_a_repair_covers_more_and_keeps_within_memory(swarm: tuple[int, list[ProviderView]]) -> None:
    n_blocks, providers = swarm
    views = {provider.peer: provider for provider in providers}
    moves = repair(n_blocks, providers)
    for peer, span in moves.items():
        assert views[peer].serving
        assert span.end <= n_blocks
        assert len(span) <= views[peer].max_blocks
    before, after = missing(n_blocks, providers), missing(n_blocks, moved(providers, moves))
    assert after < before if moves else after == before


def every_layout(n_blocks: int, capacities: list[int]) -> bool:
    """Whether some order of nodes of these capacities covers all blocks."""
    return sum(min(capacity, n_blocks) for capacity in capacities) >= n_blocks


@settings(max_examples=200, deadline=None)
@given(swarms(max_blocks=12, max_nodes=6))
def test_a_gap_that_movable_nodes_can_fill_is_filled(swarm: tuple[int, list[ProviderView]]) -> None:
    n_blocks, providers = swarm
    movable = [replace(p, serving=True, max_blocks=max(p.max_blocks, len(p.span))) for p in providers]
    if every_layout(n_blocks, [p.max_blocks for p in movable]):
        assert missing(n_blocks, moved(movable, repair(n_blocks, movable))) == 0


@settings(max_examples=60, deadline=None)
@given(swarms(max_blocks=5, max_nodes=3))
def test_with_some_fixed_no_layout_in_order_covers_more(swarm: tuple[int, list[ProviderView]]) -> None:
    """By trying all spans of all movable nodes; what only another order could cover is not asked for."""
    n_blocks, providers = swarm
    able = [p for p in providers if p.serving and p.max_blocks]
    choices = [
        [p.span, *(Span(a, b) for a in range(n_blocks) for b in range(a + 1, min(a + p.max_blocks, n_blocks) + 1))]
        for p in able
    ]
    ordered = [p.peer for p in sorted(able, key=lambda p: (p.span.start, p.span.end, p.peer))]
    best = n_blocks
    for spans in product(*choices):
        plan = {p.peer: span for p, span in zip(able, spans, strict=True)}
        if sorted(ordered, key=lambda peer: plan[peer].start) == ordered:
            best = min(best, missing(n_blocks, moved(providers, plan)))
    assert missing(n_blocks, moved(providers, repair(n_blocks, providers))) <= best


def test_a_replica_moves_to_where_the_swarm_is_clearly_slower() -> None:
    providers = [node("a", 0, 4, most=4), node("b", 0, 4, most=4), node("c", 0, 4, most=4), node("d", 4, 8, most=4)]
    assert rebalance(8, providers, "a") == Span(4, 8)
    assert rebalance(8, providers, "d") is None, "nobody else serves its blocks"
    balanced = [*providers[:2], node("c", 4, 8, most=4), providers[3]]
    assert all(rebalance(8, balanced, p.peer) is None for p in balanced)


def test_a_small_advantage_is_not_worth_a_move() -> None:
    providers = [node("a", 0, 4, 4), node("b", 0, 4, 4), node("c", 4, 8, 4, rate=180.0)]
    assert rebalance(8, providers, "a") is None
    assert rebalance(8, [*providers, node("d", 0, 4, 4), node("e", 0, 4, 4)], "a") == Span(4, 8)


def test_a_node_that_loads_counts_where_it_goes_but_is_nobodys_replacement() -> None:
    providers = [node("a", 0, 4, most=4), node("b", 0, 4, most=4), node("c", 4, 8, most=4)]
    busy = [*providers, node("d", 0, 4, most=4), replace(node("e", 4, 8, most=4), serving=False)]
    assert rebalance(8, busy, "a") is None, "help is on the way"
    alone = [node("a", 0, 4, most=4), node("b", 0, 4, most=4, serving=False), node("c", 4, 8, most=4, rate=10.0)]
    assert rebalance(8, alone, "a") is None, "b does not serve yet"


@settings(max_examples=150, deadline=None)
@given(swarms(max_nodes=14), st.integers(0, 10_000))
def test_nodes_that_move_one_at_a_time_come_to_rest_without_a_gap(
    swarm: tuple[int, list[ProviderView]], seed: int
) -> None:
    n_blocks, providers = swarm
    providers = [replace(p, serving=True) for p in providers]
    numbers = random.Random(seed)
    complete = not gaps(n_blocks, providers)
    lowest = sorted(throughput_per_block(n_blocks, providers))
    for _ in range(60 * len(providers)):
        asked = numbers.sample(providers, len(providers))
        move = next(((p, span) for p in asked if (span := rebalance(n_blocks, providers, p.peer)) is not None), None)
        if move is None:
            break
        who, span = move
        if complete:
            others = [p for p in providers if p.peer != who.peer]
            assert not gaps(n_blocks, others), "it was not needed while it loaded"
        providers = [replace(p, span=span) if p.peer == who.peer else p for p in providers]
        after = sorted(throughput_per_block(n_blocks, providers))
        if complete:
            assert after > lowest
        complete, lowest = not gaps(n_blocks, providers), after
    else:
        raise AssertionError("they never came to rest")


@given(swarms())
def test_nobody_leaves_blocks_of_a_running_model_that_no_other_serves(swarm: tuple[int, list[ProviderView]]) -> None:
    n_blocks, providers = swarm
    for mine in providers:
        if mine.serving and may_leave(n_blocks, providers, mine.peer, mine.span):
            serving = [p for p in providers if p.serving]
            left = [p for p in serving if p.peer != mine.peer]
            assert gaps(n_blocks, serving) or not gaps(n_blocks, left)


def test_two_replicas_that_leave_together_notice_it() -> None:
    announced = [node("a", 4, 8, serving=False), node("b", 4, 8, serving=False), node("c", 4, 8)]
    for me in ("a", "b"):
        assert not may_leave(8, announced, me, Span(0, 4))
    assert may_leave(8, [announced[0], node("b", 0, 4), announced[2]], "a", Span(0, 4))


def test_a_joiner_with_a_default_share_leaves_room_for_three() -> None:
    for n_blocks in range(1, 60):
        providers: list[ProviderView] = []
        for number in range(3):
            span = choose_span(n_blocks, providers, -(-n_blocks // 3), stages=3)
            providers.append(ProviderView(f"p{number}", span, 100.0))
        if n_blocks >= 3:
            assert len({p.span for p in providers}) == 3
            assert not gaps(n_blocks, providers)
    assert choose_span(5, [node("a", 0, 3)], 2, stages=3) == Span(3, 5), "a gap that is no such part is taken whole"


def test_permuted_views_give_the_same_repair() -> None:
    providers = [node("a", 0, 2, most=4), node("b", 1, 3, most=4), node("c", 5, 6, most=2), node("d", 0, 2, most=4)]
    assert len({tuple(sorted(repair(9, list(order)).items())) for order in permutations(providers)}) == 1
