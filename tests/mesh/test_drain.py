"""A provider that is told to leave: no new session, the running ones end here or go on elsewhere, none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from mesh.client.backend import BackendConfig
from mesh.client.generation import Patience
from mesh.errors import Refused
from tests.mesh.swarm_in_memory import MemorySwarm, memory_swarm, until
from tests.mesh.test_failover import EVERYTHING, SPANS, ask

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS, backend=BackendConfig(patience=Patience(route_seconds=0.5))) as swarm:
        yield swarm


async def test_a_provider_without_sessions_has_drained_at_once(swarm: MemorySwarm) -> None:
    async with asyncio.timeout(0.5):
        assert await swarm.services[0].drain(30.0) == 0


async def test_a_session_that_runs_ends_where_it_began(swarm: MemorySwarm) -> None:
    request = ask(40, sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)
    await swarm.add(SPANS[1], throughput=1.0)

    async with asyncio.TaskGroup() as tasks, swarm.backend.generate(request) as generation:
        before = generation.hops
        draining = None
        tokens: list[int] = []
        async for delta in generation:
            tokens += delta.tokens
            draining = draining or tasks.create_task(swarm.services[1].drain(30.0))

    assert tuple(tokens) == undisturbed.tokens
    assert draining is not None
    assert draining.result() == 0
    assert generation.hops == before


@pytest.mark.parametrize("leaving", [0, 1, 2], ids=["first", "middle", "last"])
async def test_a_session_that_does_not_end_in_time_is_handed_over(swarm: MemorySwarm, leaving: int) -> None:
    request = ask(200, sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)
    replica = await swarm.add(SPANS[leaving], throughput=1.0)

    async with asyncio.TaskGroup() as tasks, swarm.backend.generate(request) as generation:
        draining = None
        tokens: list[int] = []
        async for delta in generation:
            tokens += delta.tokens
            draining = draining or tasks.create_task(swarm.services[leaving].drain(0.0))

    assert tuple(tokens) == undisturbed.tokens
    assert draining is not None
    assert draining.result() == 1
    assert generation.hops[leaving].peer == replica.peer
    await until(lambda: swarm.empty)


async def test_a_provider_that_drains_takes_no_new_session(swarm: MemorySwarm) -> None:
    replica = await swarm.add(SPANS[1], throughput=1.0)
    await swarm.services[1].drain(30.0)

    answer = await swarm.generate(ask(5))

    assert replica.peer in {report.peer for report in answer.completion.route}
    await replica.service.drain(30.0)
    with pytest.raises(Refused, match="shutting down"):
        await swarm.generate(ask(5))
