"""A hop is lost, refuses, lies or falls silent: the answer goes on elsewhere, token for token, or ends clearly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from mesh.errors import MeshError, NoRoute, PeerError, Refused
from mesh.provider.config import ServiceConfig
from mesh.provider.stage.admission import AdmissionLimits
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.failover import BRISK, SPANS, ask
from tests.mesh.swarm_in_memory import MemorySwarm, collect, memory_swarm, until
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

EVERYTHING = SamplingParams(
    temperature=0.9,
    seed=99,
    top_p=0.95,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.3,
    logprobs=2,
)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        yield swarm


@pytest.mark.parametrize("params", [SamplingParams(), EVERYTHING], ids=["greedy", "everything"])
@pytest.mark.parametrize("lost", [0, 1, 2], ids=["first", "middle", "last"])
async def test_the_answer_goes_on_identically_on_a_replica(
    swarm: MemorySwarm, params: SamplingParams, lost: int
) -> None:
    request = ask(sampling=params)
    undisturbed = await swarm.generate(request)
    replica = await swarm.add(SPANS[lost], throughput=1.0)
    victim = swarm.providers[lost]

    tokens, logprobs = [], []
    async with swarm.backend.generate(request) as generation:
        assert victim.peer in {hop.peer for hop in generation.hops}
        async for delta in generation:
            tokens += delta.tokens
            logprobs += delta.logprobs
            if len(tokens) == 5:
                await victim.vanish()
        survivors = {hop.peer for hop in generation.hops}

    assert tuple(tokens) == undisturbed.tokens
    assert [entry.token for entry in logprobs] == [entry.token for entry in undisturbed.logprobs]
    for entry, before in zip(logprobs, undisturbed.logprobs, strict=True):
        assert entry.logprob == pytest.approx(before.logprob, abs=1e-4)
    assert victim.peer not in survivors
    assert replica.peer in survivors
    assert generation.completion is not None
    assert generation.completion.completion_tokens == 60
    assert {report.peer for report in generation.completion.route} >= survivors
    await until(lambda: swarm.empty)


async def test_the_answer_goes_on_over_another_cut_of_the_model(swarm: MemorySwarm) -> None:
    request = ask(sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)
    await swarm.add(Span(0, 5), throughput=1.0)

    tokens: list[int] = []
    async with swarm.backend.generate(request) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if len(tokens) == 5:
                await swarm.providers[0].vanish()
                await swarm.providers[2].vanish()

    assert tuple(tokens) == undisturbed.tokens


async def test_a_provider_that_stops_in_order_is_replaced_too(swarm: MemorySwarm) -> None:
    request = ask(sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)
    await swarm.add(SPANS[1], throughput=1.0)

    tokens: list[int] = []
    async with swarm.backend.generate(request) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if len(tokens) == 5:
                await swarm.providers[1].stop()

    assert tuple(tokens) == undisturbed.tokens


async def test_a_replica_that_comes_late_is_waited_for(swarm: MemorySwarm) -> None:
    request = ask(sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)

    async def rescue() -> None:
        await asyncio.sleep(0.3)
        await swarm.add(SPANS[1])

    tokens: list[int] = []
    async with asyncio.TaskGroup() as tasks, swarm.backend.generate(request) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if len(tokens) == 5:
                await swarm.providers[1].vanish()
                tasks.create_task(rescue())

    assert tuple(tokens) == undisturbed.tokens


async def test_prompt_scores_are_complete_after_a_loss_in_the_prompt(swarm: MemorySwarm) -> None:
    request = ask(3, prompt=tuple(random_tokens(300)), prompt_logprobs=True)
    undisturbed = await swarm.generate(request)
    await swarm.add(SPANS[1], throughput=1.0)

    async with swarm.backend.generate(request) as generation:
        reading = asyncio.create_task(collect(generation))
        table = swarm.services[2].table
        await until(lambda: any(session.expected > 40 for session in table))
        await swarm.providers[1].vanish()
        answer = await reading

    assert answer.tokens == undisturbed.tokens
    scores, before = answer.completion.prompt_logprobs, undisturbed.completion.prompt_logprobs
    assert len(scores) == 300
    assert [entry.token for entry in scores] == [entry.token for entry in before]
    assert scores[-1].logprob == pytest.approx(before[-1].logprob, abs=1e-4)


async def test_without_a_replica_there_is_a_clear_error_in_time(swarm: MemorySwarm) -> None:
    tokens: list[int] = []
    began = 0.0
    with pytest.raises(MeshError) as caught:
        async with swarm.backend.generate(ask(400)) as generation:
            async for delta in generation:
                tokens += delta.tokens
                if len(tokens) == 5:
                    began = time.monotonic()
                    await swarm.providers[1].vanish()

    assert time.monotonic() - began < BRISK.patience.route_seconds + BRISK.admit_seconds + 2.5
    assert isinstance(caught.value, NoRoute | PeerError)
    assert "2:4" in str(caught.value) or swarm.providers[1].peer in str(caught.value)
    await until(lambda: swarm.empty)


async def test_a_swarm_that_has_a_gap_from_the_start_says_so_at_once(folder: Path) -> None:
    async with memory_swarm(folder, SPANS[:2], backend=BRISK) as swarm:
        began = time.monotonic()
        with pytest.raises(NoRoute, match="blocks 4:5 of 5"):
            await swarm.generate(ask(3))
        assert time.monotonic() - began < BRISK.patience.route_seconds, "it does not wait for somebody to come"


async def test_a_hop_without_room_is_passed_by(swarm: MemorySwarm) -> None:
    full = ServiceConfig(AdmissionLimits(sessions=0), threads=1)
    small = ServiceConfig(AdmissionLimits(kv_bytes=100), threads=1)
    await swarm.add(SPANS[0], throughput=1e6, config=full)
    await swarm.add(SPANS[2], throughput=1e6, config=small)

    answer = await swarm.generate(ask(5))

    assert [report.peer for report in answer.completion.route] == [provider.peer for provider in swarm.providers[:3]]


async def test_a_full_swarm_says_that_it_is_full_and_when_to_come_back(folder: Path) -> None:
    full = ServiceConfig(AdmissionLimits(sessions=0))
    async with memory_swarm(folder, SPANS, config=full, backend=BRISK) as swarm:
        with pytest.raises(Refused, match="sessions are taken") as caught:
            await swarm.generate(ask(3))
        assert caught.value.retry_after == 1.0


async def test_who_was_refused_by_all_is_told_when_to_come_back_without_asking_them_again(folder: Path) -> None:
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        for provider in swarm.providers:
            swarm.backend._full.refused(provider.peer, 30.0, time.monotonic())
        began = time.monotonic()
        with pytest.raises(Refused, match="every route is full") as caught:
            await swarm.generate(ask(3))
        assert 25.0 < caught.value.retry_after <= 30.0
        assert time.monotonic() - began < 1.0


async def test_a_full_replica_is_passed_over_for_one_with_room(folder: Path) -> None:
    full = ServiceConfig(AdmissionLimits(sessions=0))
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        crowded = await swarm.add(SPANS[1], throughput=1e6, config=full)
        assert len((await swarm.generate(ask(3))).tokens) == 3
        assert crowded.peer in swarm.backend._full.waits(time.monotonic())
        assert crowded.peer not in swarm.backend._penalised
