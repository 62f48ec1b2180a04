"""Answers held to a form, over a ring: valid, the same with guesses and after a loss, and at nobody else's cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from benchmarks.schema_set import SCHEMAS
from mesh.client.client import build_request
from mesh.client.refusals import NoForms
from mesh.client.types import GenerateRequest
from mesh.errors import InvalidRequest
from shards.engine.sampling_params import SamplingParams
from shards.grammar.constraint import Constraint, json_object, json_schema, one_of
from shards.model.span import Span
from tests.mesh.failover import BRISK
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, collect, memory_swarm

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

SHIPPED = Path(__file__).parents[2] / "shards" / "models" / "tiny-python"
SPANS = (Span(0, 4), Span(4, 8))
PATIENT = replace(BRISK, admit_seconds=20.0)
"""The first form waits for the child process in which forms are tried, and for the model's tokens."""
SLOW = Constraint("regex", "(((((((((a{10}){10}){10}){10}){10}){10}){10}){10}){10}){10}", "response_format")


@pytest.fixture
async def swarm() -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(SHIPPED, SPANS, backend=PATIENT) as swarm:
        yield swarm


async def ask(swarm: MemorySwarm, text: str, constraint: Constraint | None, **options: Any) -> GenerateRequest:
    tokenizer = await swarm.backend.tokenizer(MODEL)
    return build_request(MODEL, tokenizer.encode(text), {"max_tokens": 200, "constraint": constraint, **options})


async def test_answers_are_valid_greedy_and_by_chance_with_guesses_and_without(swarm: MemorySwarm) -> None:
    for name in ("game_move", "sentiment", "feature", "payment_method"):
        schema = SCHEMAS[name]
        for temperature in (0.0, 1.0):
            kinds: list[Any] = ["off", "always"]
            answers = [
                await swarm.generate(
                    await ask(swarm, "x = ", json_schema(schema), temperature=temperature, seed=5, speculate=speculate)
                )
                for speculate in kinds
            ]
            assert answers[0].tokens == answers[1].tokens
            for answer in answers:
                assert answer.completion.finish_reason == "stop"
                jsonschema.validate(json.loads(answer.text), schema)
            assert answers[1].completion.trips < answers[0].completion.trips


async def test_the_other_forms_hold_as_well(swarm: MemorySwarm) -> None:
    choices = ["yes", "no", 'per"haps']
    assert (await swarm.generate(await ask(swarm, "x", one_of(choices)))).text in choices
    answer = await swarm.generate(await ask(swarm, "x", Constraint("regex", "[a-c]{3}-[0-9]{1,3}x"), temperature=1.0))
    assert answer.text[3] == "-" and answer.text.endswith("x")
    grammar = Constraint("grammar", 'start: pair ("," pair)\npair: /[a-z]{1,3}/ "=" /[0-9]/')
    answer = await swarm.generate(await ask(swarm, "x", grammar, logprobs=2, presence_penalty=1.0, logit_bias={5: 9.0}))
    assert answer.text.count("=") == 2
    assert len(answer.logprobs) == len(answer.tokens)
    assert all(each.logprob is not None and each.logprob <= each.top[0][1] for each in answer.logprobs)
    assert any(each.token != each.top[0][0] for each in answer.logprobs), "they are the model's own, before the form"


async def test_a_stop_string_ends_it_and_too_few_tokens_cut_it(swarm: MemorySwarm) -> None:
    whole = await swarm.generate(await ask(swarm, "x", json_schema(SCHEMAS["game_move"])))
    stopped = await swarm.generate(await ask(swarm, "x", json_schema(SCHEMAS["game_move"]), stop='"start"'))
    assert stopped.completion.finish_reason == "stop"
    assert stopped.text == whole.text.partition('"start"')[0]
    cut = await swarm.generate(await ask(swarm, "x", json_schema(SCHEMAS["game_move"]), max_tokens=5))
    assert cut.completion.finish_reason == "length"
    assert whole.text.startswith(cut.text)


@pytest.mark.parametrize("lost", [0, 1], ids=["first", "last"])
async def test_a_hop_that_is_lost_changes_no_token(swarm: MemorySwarm, lost: int) -> None:
    request = await ask(swarm, "x", json_schema(SCHEMAS["quiz"]), temperature=0.8, seed=3, speculate="always")
    undisturbed = await swarm.generate(request)
    await swarm.add(SPANS[lost], throughput=1.0)
    tokens: list[int] = []
    async with swarm.backend.generate(request) as generation:
        async for delta in generation:
            if len(tokens) < 12 <= len(tokens) + len(delta.tokens):
                await swarm.providers[lost].vanish()
            tokens += delta.tokens
    assert tuple(tokens) == undisturbed.tokens


async def test_a_resumed_answer_goes_on_in_its_form(swarm: MemorySwarm) -> None:
    request = await ask(swarm, "x", json_schema(SCHEMAS["sentiment"]), temperature=0.9, seed=8)
    whole = await swarm.generate(request)
    half = whole.tokens[: len(whole.tokens) // 2]
    rest = await swarm.generate(
        GenerateRequest(
            MODEL, request.prompt, request.max_tokens, request.sampling, constraint=request.constraint, resumed=half
        )
    )
    assert half + rest.tokens == whole.tokens
    foreign = GenerateRequest(
        MODEL, request.prompt, request.max_tokens, SamplingParams(), constraint=request.constraint, resumed=(5, 5, 5)
    )
    with pytest.raises(InvalidRequest, match="not of its form"):
        await swarm.generate(foreign)


async def test_free_sessions_beside_them_say_what_they_say_alone(swarm: MemorySwarm) -> None:
    free = await ask(swarm, "def add(a, b):\n", None, max_tokens=40)
    alone = await swarm.generate(free)
    held = [await ask(swarm, "x", json_schema(SCHEMAS[name])) for name in ("sentiment", "quiz", "tree")]
    answers = await asyncio.gather(*(swarm.generate(each) for each in (free, *held, free)))
    assert answers[0].text == answers[-1].text == alone.text
    assert all(answer.text.startswith("{") for answer in answers[1:-1])


async def test_hostile_forms_are_refused_and_stall_nobody(swarm: MemorySwarm) -> None:
    await swarm.generate(await ask(swarm, "x", one_of(["warm"])))
    gaps = [0.0]

    async def talk() -> None:
        async with swarm.backend.generate(await ask(swarm, "def", None, max_tokens=300, ignore_eos=True)) as generation:
            at = time.monotonic()
            async for _ in generation:
                gaps.append(time.monotonic() - at)
                at = time.monotonic()

    async def attack(number: int) -> None:
        hostile = Constraint(SLOW.kind, SLOW.text + "b" * number, SLOW.param)
        with pytest.raises(InvalidRequest, match=r"response_format: .*complex") as caught:
            await swarm.generate(await ask(swarm, "x", hostile))
        assert caught.value.param == "response_format"

    await asyncio.gather(talk(), attack(1), attack(2))
    assert max(gaps) < 2.0  # of a machine that is busy with other things
    with pytest.raises(InvalidRequest, match="not"):
        await swarm.generate(await ask(swarm, "x", json_schema({"not": {}})))
    with pytest.raises(InvalidRequest, match="ignore_eos"):
        await swarm.generate(await ask(swarm, "x", json_object(), ignore_eos=True))


async def test_a_client_that_leaves_while_its_form_is_tried_leaves_nothing(swarm: MemorySwarm) -> None:
    leaving = asyncio.create_task(swarm.generate(await ask(swarm, "x", SLOW)))
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.wait({leaving})
    answer = await swarm.generate(await ask(swarm, "x", one_of(["yes"])))
    assert answer.text == "yes"
    async with asyncio.timeout(5):
        while not swarm.empty:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_provider_without_a_tokenizer_is_passed_over_or_the_client_told(swarm: MemorySwarm) -> None:
    request = await ask(swarm, "x", one_of(["yes", "no"]))
    swarm.providers[1].service._forms.files = {}
    with pytest.raises(NoForms, match="cannot be held to a form here"):
        await swarm.generate(request)
    await swarm.add(SPANS[1], throughput=1.0)
    client = await swarm.client(PATIENT)
    async with client.generate(request) as generation:
        assert (await collect(generation)).text in ("yes", "no")
