"""Where a chat's next turn goes: back to the route that holds what was said, as long as that is the faster way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.client.affinity import PROMPT_PART, USUAL_ANSWER, RouteMemory, worth_returning
from mesh.swarm.route import Hop, Latencies, RouteTable, route_seconds
from mesh.swarm.view import ProviderView
from shards.model.paging import PAGE
from shards.model.span import Span

ROOT, OTHER = b"r" * 16, b"o" * 16
HERE, THERE = (Hop("a", Span(0, 4)),), (Hop("b", Span(0, 4)),)
PROMPT = list(range(1000, 1100))
ANSWER = list(range(2000, 2040))


@given(st.floats(1e-6, 10), st.floats(1, 100), st.integers(0, 100_000), st.integers(1, 100_000))
def test_a_return_costs_at_most_the_prefill_that_it_saves(best: float, slower: float, held: int, most: int) -> None:
    answer = min(most, USUAL_ANSWER)
    longer = answer * (slower * best - best)
    if worth_returning(slower * best, best, held, most):
        assert longer <= held * PROMPT_PART * best + 1e-6 * answer * slower * best
    else:
        assert longer > held * PROMPT_PART * best - 1e-6 * answer * slower * best


def test_a_route_that_is_as_fast_is_gone_back_to_and_one_that_cannot_be_had_never() -> None:
    assert worth_returning(0.01, 0.01, 16, 1000)
    assert worth_returning(0.0, 0.01, 0, 1)
    assert not worth_returning(math.inf, 0.01, 1_000_000, 1)
    assert worth_returning(0.013, 0.01, 1000, 256) and not worth_returning(0.015, 0.01, 1000, 256)


def test_the_next_turn_finds_the_end_of_the_prompt_and_another_prompt_what_it_shares() -> None:
    memory = RouteMemory()
    memory.remember(ROOT, PROMPT, HERE)
    turn = [*PROMPT, *ANSWER, 1, 2, 3]
    assert memory.find(ROOT, turn) == (HERE, 96)
    assert memory.find(ROOT, [*PROMPT[:70], *range(40)]) == (HERE, 64)
    assert memory.find(ROOT, PROMPT[:64]) == (HERE, 32), "at least one token is run"
    assert memory.find(ROOT, [9, *turn]) is None
    assert memory.find(OTHER, turn) is None
    memory.remember(ROOT, turn, THERE)
    assert memory.find(ROOT, [*turn, *ANSWER]) == (THERE, 128)
    assert memory.find(ROOT, [*PROMPT, *range(40)]) == (HERE, 96), "the prompt's end was an end of that one only"


@given(st.integers(PAGE, 600), st.integers(0, 600))
def test_at_least_half_of_what_two_prompts_share_is_found(shared: int, more: int) -> None:
    memory = RouteMemory()
    memory.remember(ROOT, [*range(shared), *range(5000, 5000 + more)], HERE)
    found = memory.find(ROOT, [*range(shared), 9999])
    assert found is not None and shared // PAGE * PAGE / 2 <= found.held <= shared


def test_what_was_not_asked_for_longest_is_forgotten_first() -> None:
    memory = RouteMemory(limit=20)
    memory.remember(ROOT, PROMPT, HERE)
    for number in range(100):
        memory.remember(ROOT, [number] * 40, THERE)
        assert memory.find(ROOT, [*PROMPT, 1]) == (HERE, 96)
    assert len(memory) == 20
    assert memory.find(ROOT, [5] * 50) is None


def test_a_table_says_what_a_chain_costs_and_that_it_cannot_be_had() -> None:
    providers = [
        ProviderView("a", Span(0, 3), 100.0, load=1),
        ProviderView("b", Span(2, 6), 50.0),
        ProviderView("c", Span(0, 6), 20.0),
        ProviderView("away", Span(0, 6), 20.0, serving=False),
    ]
    latencies = Latencies(to_first={"a": 0.01}, between={("a", "b"): 0.05})
    table = RouteTable(6, providers, latencies)
    chain = (Hop("a", Span(0, 3)), Hop("b", Span(3, 6)))
    assert table.seconds(chain) == pytest.approx(route_seconds(chain, providers, latencies=latencies))
    assert table.seconds(chain, loads={"b": 2}) == pytest.approx(table.seconds(chain) + 2 * 3 / 50)
    assert table.seconds(chain, factors={"b": 2.0}) == pytest.approx(table.seconds(chain) + 3 / 50)
    assert table.seconds(chain, excluded=["c"], busy={"c": 1.0, "a": 0.0}) == table.seconds(chain)
    for hops in (
        (Hop("a", Span(0, 4)),),
        (Hop("b", Span(0, 6)),),
        (Hop("away", Span(0, 6)),),
        (Hop("nobody", Span(0, 6)),),
    ):
        assert table.seconds(hops) == math.inf
    assert table.seconds(chain, excluded=["b"]) == table.seconds(chain, busy={"a": 0.5}) == math.inf
