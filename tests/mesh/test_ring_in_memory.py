"""The whole path in one process: client, ring of stages and back, against the same model in transformers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from mesh.client.types import GenerateRequest
from mesh.errors import Cancelled, ContextLengthExceeded, InvalidRequest, UnknownModel
from shards.engine.sampling import TokenHistory, sample
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm, until
from tests.shards.models import reference
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

CUTS = {1: (Span(0, 5),), 2: (Span(0, 3), Span(3, 5)), 3: (Span(0, 2), Span(2, 4), Span(4, 5))}
WARM = SamplingParams(temperature=0.8, seed=1234)


@pytest.fixture(scope="module")
def whole(folder: Path) -> transformers.PreTrainedModel:
    return reference(folder)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, CUTS[3]) as swarm:
        yield swarm


def ask(prompt: Sequence[int], max_tokens: int = 12, **changes: object) -> GenerateRequest:
    request = GenerateRequest(MODEL, tuple(prompt), max_tokens, ignore_eos=True)
    return replace(request, **changes)  # type: ignore[arg-type]


@torch.inference_mode()
def expected(
    model: transformers.PreTrainedModel, prompt: Sequence[int], count: int, params: SamplingParams
) -> tuple[int, ...]:
    """What the whole model says, sampled as a last stage does."""
    history = TokenHistory(prompt)
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        logits = model(torch.tensor([tokens])).logits[0, -1].float()
        tokens.append(sample(logits, params, len(tokens), history).token)
        history.push(tokens[-1])
    return tuple(tokens[len(prompt) :])


@pytest.mark.parametrize("stages", CUTS)
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        WARM,
        SamplingParams(temperature=0.9, top_k=20, top_p=0.9, seed=7, repetition_penalty=1.3, frequency_penalty=0.4),
    ],
    ids=["greedy", "warm", "penalties"],
)
async def test_any_number_of_stages_says_what_transformers_says(
    folder: Path, whole: transformers.PreTrainedModel, stages: int, params: SamplingParams
) -> None:
    prompt = random_tokens(21)
    async with memory_swarm(folder, CUTS[stages]) as swarm:
        answer = await swarm.generate(ask(prompt, 16, sampling=params))

        assert answer.tokens == expected(whole, prompt, 16, params)
        completion = answer.completion
        assert completion.finish_reason == "length"
        assert (completion.prompt_tokens, completion.completion_tokens) == (21, 16)
        assert [report.span for report in completion.route] == list(CUTS[stages])
        assert [report.tokens for report in completion.route] == [21 + 15] * stages
        assert all(report.busy_seconds > 0 for report in completion.route)
        await until(lambda: swarm.empty)


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(swarm: MemorySwarm) -> None:
    texts = [
        (await swarm.generate(ask(random_tokens(5), 20, sampling=replace(WARM, seed=seed)))).text for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_many_sessions_at_once_say_what_each_says_alone(swarm: MemorySwarm) -> None:
    requests = [
        ask(random_tokens(3 + 5 * number, seed=number), 10 + number, sampling=replace(WARM, seed=number))
        for number in range(12)
    ]
    alone = [(await swarm.generate(request)).tokens for request in requests]
    other = await swarm.client()

    together = await asyncio.gather(
        *(
            swarm.generate(request, backend=swarm.backend if number % 2 else other)
            for number, request in enumerate(requests)
        )
    )

    assert [answer.tokens for answer in together] == alone
    await until(lambda: swarm.empty)


async def test_a_prompt_far_longer_than_a_chunk_is_the_same_prompt(
    swarm: MemorySwarm, whole: transformers.PreTrainedModel
) -> None:
    for length in (1, 7, 8, 9, 16, 17, 200):
        prompt = random_tokens(length, seed=length)
        answer = await swarm.generate(ask(prompt, 4))
        assert answer.tokens == expected(whole, prompt, 4, SamplingParams()), length


async def test_one_token_is_a_whole_generation(swarm: MemorySwarm) -> None:
    answer = await swarm.generate(ask([5], 1))
    assert len(answer.tokens) == 1
    assert answer.completion.finish_reason == "length"


async def test_the_end_of_text_ends_the_answer(swarm: MemorySwarm, whole: transformers.PreTrainedModel) -> None:
    """An eos that greedy decoding would not choose, made likely by a bias."""
    eos = 1
    biased = SamplingParams(logit_bias={eos: 100.0})
    answer = await swarm.generate(ask(random_tokens(4), 9, sampling=biased, ignore_eos=False))
    assert answer.completion.finish_reason == "stop"
    assert answer.completion.completion_tokens == 1
    assert (answer.text, answer.tokens) == ("", ())

    ignoring = await swarm.generate(ask(random_tokens(4), 9, sampling=biased))
    assert ignoring.tokens == (eos,) * 9
    assert ignoring.completion.finish_reason == "length"


async def test_logprobs_are_those_of_the_whole_model(swarm: MemorySwarm, whole: transformers.PreTrainedModel) -> None:
    prompt = random_tokens(30)
    params = SamplingParams(logprobs=3)
    answer = await swarm.generate(ask(prompt, 5, sampling=params, prompt_logprobs=True))

    with torch.inference_mode():
        tokens = [*prompt, *answer.tokens]
        rows = whole(torch.tensor([tokens])).logits[0].double().log_softmax(dim=-1)
    everything = [*answer.completion.prompt_logprobs, *answer.logprobs]
    assert len(answer.completion.prompt_logprobs) == 30
    assert everything[0].token == tokens[0]
    assert everything[0].logprob is None
    for position, entry in enumerate(everything[1:], start=1):
        row = rows[position - 1]
        assert entry.token == tokens[position]
        assert entry.logprob == pytest.approx(float(row[entry.token]), abs=1e-4)
        best = row.topk(3)
        assert [token for token, _ in entry.top] == best.indices.tolist()
        assert [logprob for _, logprob in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)


async def test_prompt_scores_without_alternatives_and_of_a_single_token(swarm: MemorySwarm) -> None:
    answer = await swarm.generate(ask(random_tokens(20), 1, prompt_logprobs=True))
    assert [entry.top for entry in answer.completion.prompt_logprobs] == [()] * 20
    single = await swarm.generate(ask([9], 1, prompt_logprobs=True))
    assert [(entry.token, entry.logprob) for entry in single.completion.prompt_logprobs] == [(9, None)]


async def test_a_stop_string_ends_the_answer_before_it_and_frees_the_session(swarm: MemorySwarm) -> None:
    request = ask(random_tokens(6), 200, sampling=WARM)
    free = await swarm.generate(request)
    stop = free.text[40:43]

    answer = await swarm.generate(replace(request, stop=(stop, "never there")))

    assert answer.text == free.text[: free.text.index(stop)]
    assert answer.completion.finish_reason == "stop"
    assert answer.completion.completion_tokens < 200
    await until(lambda: swarm.empty)


async def test_the_deltas_are_the_answer_in_pieces(swarm: MemorySwarm) -> None:
    async with swarm.backend.generate(ask(random_tokens(6), 30, sampling=WARM)) as generation:
        deltas = [delta async for delta in generation]
    tokenizer = await swarm.backend.tokenizer(MODEL)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert len(tokens) == 30
    assert "".join(delta.text for delta in deltas) == tokenizer.decode(tokens)


async def test_leaving_early_frees_the_session_on_every_stage(swarm: MemorySwarm) -> None:
    async with swarm.backend.generate(ask(random_tokens(6), 400)) as generation:
        async for _ in generation:
            assert all(len(service.table) == 1 for service in swarm.services)
            break
    assert generation.completion is None
    assert swarm.empty, "closing waits for the hops' answers"


async def test_a_cancelled_task_frees_the_session_on_every_stage(swarm: MemorySwarm) -> None:
    started = asyncio.Event()

    async def generate() -> None:
        async with swarm.backend.generate(ask(random_tokens(6), 400)) as generation:
            async for _ in generation:
                started.set()

    task = asyncio.create_task(generate())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # and once more, while it says goodbye
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: swarm.empty)


async def test_cancelling_while_the_prompt_runs_frees_the_session(swarm: MemorySwarm) -> None:
    async def generate() -> None:
        await swarm.generate(ask(random_tokens(400), 10))

    task = asyncio.create_task(generate())
    await until(lambda: bool(swarm.services[2].table) and any(s.expected for s in swarm.services[2].table))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: swarm.empty)


async def test_leaving_from_another_task_does_not_look_like_a_failure_of_the_swarm(swarm: MemorySwarm) -> None:
    manager = swarm.backend.generate(ask(random_tokens(6), 450))
    generation = await manager.__aenter__()
    started = asyncio.Event()

    async def read() -> None:
        async for _ in generation:
            started.set()

    reader = asyncio.create_task(read())
    await started.wait()
    await manager.__aexit__(None, None, None)
    with pytest.raises(Cancelled):
        await reader
    assert not swarm.backend._penalised
    await until(lambda: swarm.empty)


async def test_a_client_that_breaks_off_frees_everything(swarm: MemorySwarm) -> None:
    doomed = await swarm.client()
    transport = doomed._transport
    async with doomed.generate(ask(random_tokens(6), 450)) as generation:
        async for _ in generation:
            break
        assert not swarm.empty
        await transport.__aexit__(None, None, None)
        await until(lambda: swarm.empty)
    assert (await swarm.generate(ask([5, 6], 3))).tokens


async def test_a_reader_that_dawdles_loses_nothing(swarm: MemorySwarm) -> None:
    request = ask(random_tokens(6), 40, sampling=WARM)
    whole = await swarm.generate(request)
    async with swarm.backend.generate(request) as generation:
        deltas = aiter(generation)
        first = await anext(deltas)
        last = swarm.services[-1].table
        await until(lambda: all(session.expected >= 45 for session in last))
        rest = [token async for delta in deltas for token in delta.tokens]
    assert (*first.tokens, *rest) == whole.tokens


async def test_what_cannot_be_served_is_refused_before_any_hop_is_asked(swarm: MemorySwarm) -> None:
    cases: list[tuple[GenerateRequest, type[Exception], str]] = [
        (ask([], 3), InvalidRequest, "empty"),
        (ask([300], 3), InvalidRequest, "outside the vocabulary"),
        (ask([-1], 3), InvalidRequest, "outside the vocabulary"),
        (ask([5], 0), InvalidRequest, "max_tokens"),
        (ask([5], 512), ContextLengthExceeded, "context of 512"),
        (ask([5], 3, sampling=SamplingParams(logit_bias={300: 1.0})), InvalidRequest, "logit_bias"),
        (ask([5], 3, sampling=SamplingParams(logit_bias={1 << 40: 1.0})), InvalidRequest, "logit_bias"),
        (ask([5], 3, model="other"), UnknownModel, "other"),
    ]
    for request, kind, message in cases:
        with pytest.raises(kind, match=message):
            await swarm.generate(request)
    assert (await swarm.generate(ask([5], 511 - 1, sampling=SamplingParams(top_k=1 << 40)))).completion


async def test_the_context_can_be_filled_to_the_last_token(swarm: MemorySwarm) -> None:
    answer = await swarm.generate(ask(random_tokens(500), 12))
    assert answer.completion.completion_tokens == 12
