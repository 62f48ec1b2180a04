"""More sessions than a stage's memory holds at their full length: all are answered, and no token is lost or differs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mesh.client.backend import BackendConfig
from mesh.client.generation import Patience
from mesh.client.types import GenerateRequest
from mesh.errors import Refused
from mesh.provider.config import ServiceConfig
from mesh.provider.stage.admission import AdmissionLimits
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, memory_swarm, until
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(110)

SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
PAGE_BYTES = 16 * 2 * 2 * 8 * 4
"""Of one block."""
PATIENT = BackendConfig(patience=Patience(route_seconds=90.0, resume_seconds=90.0))


def requests(count: int, max_tokens: int) -> list[GenerateRequest]:
    warm = SamplingParams(temperature=0.8, seed=5, repetition_penalty=1.1)
    return [
        GenerateRequest(
            MODEL,
            tuple(random_tokens(10 + number, seed=number)),
            max_tokens,
            warm if number % 3 == 0 else SamplingParams(),
            ignore_eos=True,
        )
        for number in range(count)
    ]


async def test_sessions_that_lose_their_pages_are_fed_again_and_say_the_same(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wanted = requests(8, 60)
    async with memory_swarm(folder, SPANS) as roomy:
        alone = [await roomy.generate(request) for request in wanted]
    # Five pages for a session at its end, and there are twelve: of eight sessions two can get there together.
    small = ServiceConfig(AdmissionLimits(kv_bytes=12 * 2 * PAGE_BYTES), prefill_chunk=8)
    async with memory_swarm(folder, SPANS, config=small, backend=PATIENT) as swarm:
        together = await asyncio.gather(*(swarm.generate(request) for request in wanted))
        await until(lambda: swarm.empty)
        assert not swarm.backend._penalised, "nobody is to blame"
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert "lost its place" in caplog.text


async def test_a_client_that_fills_the_memory_makes_room_for_another(folder: Path) -> None:
    small = ServiceConfig(AdmissionLimits(kv_bytes=16 * 2 * PAGE_BYTES), prefill_chunk=8)
    async with memory_swarm(folder, SPANS, config=small, backend=PATIENT) as swarm:
        other = await swarm.client()
        many = [asyncio.create_task(swarm.generate(request)) for request in requests(6, 200)]
        busy = swarm.providers[0].service
        await until(lambda: busy.engine is not None and busy.engine.free_pages <= 1, seconds=60)
        answer = await swarm.generate(replace(requests(1, 10)[0], max_tokens=10), backend=other)
        assert len(answer.tokens) == 10
        assert not all(task.done() for task in many), "it did not have to wait for the others to end"
        for each in await asyncio.gather(*many):
            assert len(each.tokens) == 200


async def test_an_answer_of_which_no_length_was_asked_ends_where_the_memory_does(folder: Path) -> None:
    small = ServiceConfig(AdmissionLimits(kv_bytes=12 * 2 * PAGE_BYTES), prefill_chunk=8)
    smaller = replace(small, admission=AdmissionLimits(kv_bytes=6 * 2 * PAGE_BYTES))
    wanted = replace(requests(1, 300)[0], shrinks=True)
    async with memory_swarm(folder, SPANS) as roomy:
        alone = await roomy.generate(wanted)
    async with memory_swarm(folder, (SPANS[0], SPANS[2]), config=small, backend=PATIENT) as swarm:
        await swarm.add(SPANS[1], throughput=1000.0, config=smaller)
        answer = await swarm.generate(wanted)
        assert answer.completion.finish_reason == "length"
        assert len(answer.tokens) == 6 * 16 - 10, "the hop that has least decides"
        assert answer.tokens == alone.tokens[: len(answer.tokens)]
        await swarm.add(SPANS[1], throughput=1.0)
        assert len((await swarm.generate(wanted)).tokens) == 12 * 16 - 10, (
            "a slower way that has room for more is taken"
        )
        await until(lambda: swarm.empty)


async def test_an_answer_of_a_length_that_was_asked_for_is_refused_where_it_does_not_fit(folder: Path) -> None:
    small = ServiceConfig(AdmissionLimits(kv_bytes=12 * 2 * PAGE_BYTES), prefill_chunk=8)
    brisk = BackendConfig(patience=Patience(route_seconds=0.5))
    async with memory_swarm(folder, SPANS, config=small, backend=brisk) as swarm:
        with pytest.raises(Refused, match="do not fit into all of 12 pages"):
            await swarm.generate(requests(1, 300)[0])
        assert len((await swarm.generate(requests(1, 12 * 16 - 10)[0])).tokens) == 182
