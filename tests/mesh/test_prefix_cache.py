"""What a conversation has said before is not run again: the hops of its route still hold it, for its client only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mesh.client.types import GenerateRequest
from mesh.payment.credit.terms import CreditTerms
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.payment.money import Money
from tests.mesh.swarm_in_memory import MODEL, Answer, MemorySwarm, memory_swarm, until
from tests.mesh.test_ring_in_memory import expected
from tests.shards.models import reference
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
WARM = SamplingParams(temperature=0.8, seed=3, repetition_penalty=1.1)


@pytest.fixture(params=["free", "paid"])
async def swarm(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[MemorySwarm]:
    money = Money(terms=CreditTerms(tokens=1000, pause_seconds=1.0, receipt_seconds=0.02))
    async with memory_swarm(folder, SPANS, money=money if request.param == "paid" else None, unverified=True) as swarm:
        yield swarm


def ask(prompt: tuple[int, ...], sampling: SamplingParams = WARM, **changes: object) -> GenerateRequest:
    return GenerateRequest(MODEL, prompt, 12, sampling, ignore_eos=True, **changes)  # type: ignore[arg-type]


def work(answer: Answer) -> set[int]:
    """Tokens that each hop has run."""
    return {report.tokens for report in answer.completion.route}


def route_of(answer: Answer) -> tuple[str, ...]:
    return tuple(report.peer for report in answer.completion.route)


async def fresh(folder: Path, request: GenerateRequest) -> Answer:
    """What a swarm says that has seen nothing before."""
    async with memory_swarm(folder, SPANS) as other:
        return await other.generate(request)


@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
async def test_the_second_turn_runs_only_what_is_new_and_says_the_same(
    swarm: MemorySwarm, folder: Path, sampling: SamplingParams
) -> None:
    first = await swarm.generate(ask(tuple(random_tokens(100)), sampling))
    assert work(first) == {111}
    longer = (*random_tokens(100), *first.tokens, *random_tokens(9, seed=2))
    second = await swarm.generate(ask(longer, sampling))
    assert work(second) == {121 - 96 + 11}
    assert second.tokens == (await fresh(folder, ask(longer, sampling))).tokens
    assert second.completion.prompt_tokens == 121
    await until(lambda: swarm.empty)


async def test_an_answer_is_not_run_again_in_the_next_turn(swarm: MemorySwarm, folder: Path) -> None:
    asked = replace(ask(tuple(random_tokens(50))), max_tokens=60)
    first = await swarm.generate(asked)
    turn = (*random_tokens(50), *first.tokens, *random_tokens(9, seed=2))
    second = await swarm.generate(ask(turn))
    assert second.completion.cached_tokens == 96, "full pages of the 109 tokens that were run"
    assert work(second) == {119 - 96 + 11}
    assert second.tokens == (await fresh(folder, ask(turn))).tokens
    third = await swarm.generate(ask((*turn, *second.tokens, 5)))
    assert third.completion.cached_tokens == 128
    await until(lambda: swarm.empty)


async def test_the_same_prompt_again_runs_at_least_one_token(swarm: MemorySwarm) -> None:
    prompt = tuple(random_tokens(64))
    answers = [await swarm.generate(ask(prompt)) for _ in range(2)]
    assert work(answers[1]) == {64 - 48 + 11}
    assert answers[0].tokens == answers[1].tokens


async def test_one_hop_that_holds_less_decides_and_the_others_go_back_to_there(
    swarm: MemorySwarm, folder: Path
) -> None:
    prompt = tuple(random_tokens(100))
    await swarm.generate(ask(prompt[:40]))
    blocks = swarm.providers[1].service.engine._core.blocks  # type: ignore[union-attr]
    before = {*blocks._by_key}
    await swarm.generate(ask(prompt))
    for key in {*blocks._by_key} - before:  # the middle hop forgets the second prompt
        page = blocks._by_key.pop(key)
        del blocks._keys[page], blocks._idle[page]
        blocks._free.append(page)
    answers = await asyncio.gather(*(swarm.generate(ask(prompt)) for _ in range(3)))
    expected = (await fresh(folder, ask(prompt))).tokens
    assert {answer.tokens for answer in answers} == {expected}
    assert max(max(work(answer)) for answer in answers) == 100 - 32 + 11
    await until(lambda: swarm.empty)


async def test_another_client_finds_nothing_of_it(folder: Path) -> None:
    async with memory_swarm(folder, SPANS) as swarm:
        prompt = tuple(random_tokens(100))
        first = await swarm.generate(ask(prompt))
        other = await swarm.client()
        second = await swarm.generate(ask(prompt), backend=other)
        assert work(second) == work(first) == {111}


async def test_prompt_scores_are_computed_in_full(folder: Path) -> None:
    async with memory_swarm(folder, SPANS) as swarm:
        prompt = tuple(random_tokens(50))
        scored = [await swarm.generate(ask(prompt, prompt_logprobs=True)) for _ in range(2)]
        assert [len(answer.completion.prompt_logprobs) for answer in scored] == [50, 50]
        assert work(scored[1]) == {61}


async def test_a_prompt_that_is_larger_than_the_credit_runs_whole(folder: Path) -> None:
    async with memory_swarm(folder, SPANS, money=Money(), unverified=True) as swarm:
        prompt = tuple(random_tokens(200))
        answers = [await swarm.generate(ask(prompt)) for _ in range(2)]
        assert work(answers[1]) == {211}
        assert answers[0].tokens == answers[1].tokens


async def test_of_two_equal_routes_every_next_turn_takes_the_one_that_holds_the_chat(folder: Path) -> None:
    async with memory_swarm(folder, (Span(0, 3), Span(3, 5)) * 2) as swarm:
        prompts = [tuple(random_tokens(100, seed=number)) for number in range(20)]
        first = [await swarm.generate(ask(prompt)) for prompt in prompts]
        turns = [
            (*prompt, *answer.tokens, *random_tokens(9, seed=2)) for prompt, answer in zip(prompts, first, strict=True)
        ]
        second = [await swarm.generate(ask(turn)) for turn in turns]
        assert len({route_of(answer) for answer in first}) > 1, "chats begin here and there"
        assert [route_of(answer) for answer in second] == [route_of(answer) for answer in first]
        assert {run for answer in second for run in work(answer)} == {121 - 96 + 11}
        await until(lambda: swarm.empty)


async def test_a_route_of_which_a_provider_is_gone_is_not_gone_back_to_and_another_says_the_same(folder: Path) -> None:
    async with memory_swarm(folder, (Span(0, 3), Span(3, 5)) * 2) as swarm:
        first = await swarm.generate(ask(tuple(random_tokens(100))))
        turn = (*random_tokens(100), *first.tokens, *random_tokens(9, seed=2))
        (lost,) = [each for each in swarm.providers if each.peer == route_of(first)[0]]
        await lost.vanish()
        second = await swarm.generate(ask(turn))
        assert route_of(second)[0] != lost.peer and work(second) == {121 + 11}
        assert second.tokens == (await fresh(folder, ask(turn))).tokens
        third = await swarm.generate(ask((*turn, *second.tokens, 5)))
        assert route_of(third) == route_of(second), "the chat stays where it went"
        assert max(work(third)) < 50


@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("restarted", [0, 1, 2], ids=["first", "middle", "last"])
async def test_after_a_provider_was_restarted_the_next_turn_says_what_transformers_says(
    folder: Path, restarted: int, sampling: SamplingParams
) -> None:
    whole = reference(folder)
    async with memory_swarm(folder, SPANS) as swarm:
        first = await swarm.generate(ask(tuple(random_tokens(100)), sampling))
        await swarm.restart(swarm.providers[restarted])
        turn = (*random_tokens(100), *first.tokens, *random_tokens(9, seed=2))
        second = await swarm.generate(ask(turn, sampling))
        assert work(second) == {121 + 11}, "who was restarted holds nothing, so all run it"
        third = await swarm.generate(ask((*turn, *second.tokens, 5), sampling))
        assert work(third) == {134 - 128 + 11}, "the first answer too"
        answers = [(first, random_tokens(100)), (second, turn), (third, (*turn, *second.tokens, 5))]
        for answer, prompt in answers:
            assert answer.tokens == expected(whole, prompt, 12, sampling)
        await until(lambda: swarm.empty)
