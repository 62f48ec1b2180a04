"""Real providers are killed or stopped in the middle of answers: no token is lost, none is another one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.client.client import Client
from mesh.client.types import GenerateRequest
from shards.engine.sampling_params import SamplingParams
from tests.leftovers import lasting
from tests.profile import LONG
from tests.scenarios.processes import MeshProcess, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SPANS = ("0:2", "2:4", "4:5")
NAME = "survivor"
SAMPLING = {"greedy": SamplingParams(), "temperature": SamplingParams(temperature=0.8, seed=4)}
STOPPED_SECONDS = 10.0


class Replicated:
    """Three stages with two providers each; those that a test has taken away come back before the next one."""

    def __init__(self, world: World, model: Path) -> None:
        self.world = world
        self.model = model
        self.stages: list[dict[str, MeshProcess]] = [{} for _ in SPANS]
        self.expected: dict[GenerateRequest, tuple[int, ...]] = {}

    @property
    def living(self) -> list[MeshProcess]:
        return [process for stage in self.stages for process in stage.values() if process.running]

    @property
    def addresses(self) -> list[str]:
        return [process.event("joined")["maddrs"][0] for process in self.living]

    def start(self, stage: int, *arguments: str) -> MeshProcess:
        peers = ",".join(self.addresses)
        return self.world.join(self.model, "--name", NAME, "--blocks", SPANS[stage], *arguments, peers=peers)

    def keep(self, stage: int, process: MeshProcess) -> str:
        peer: str = process.event("joined")["peer"]
        process.event("serving")
        self.stages[stage][peer] = process
        return peer

    def complete(self) -> Replicated:
        """Bring every stage back to two providers."""
        for stage in self.stages:
            for peer in [peer for peer, process in stage.items() if not process.running]:
                del stage[peer]
        if not self.living:
            self.keep(0, self.start(0))
        missing = [(n, self.start(n)) for n, stage in enumerate(self.stages) for _ in range(2 - len(stage))]
        for number, process in missing:
            self.keep(number, process)
        return self

    def of(self, peer: str) -> MeshProcess:
        return next(stage[peer] for stage in self.stages if peer in stage)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with Client(self.addresses, runtime_root=self.world.runtime) as client:
            yield client


@pytest.fixture(scope="module")
def replicated(checkpoint: Path) -> Iterator[Replicated]:
    with World() as world, lasting(world.mark):
        yield Replicated(world, checkpoint)
        for process in world.processes:
            if process.running:
                process.send(signal.SIGTERM)
        for process in world.processes:
            process.wait()
        # What killed nodes leave in the runtime folder goes with the next one that starts there.
        world.run("status", "--peers", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo")


def request(params: SamplingParams, new: int = 160) -> GenerateRequest:
    prompt = tuple(random.Random(7).randrange(300) for _ in range(24))
    return GenerateRequest(NAME, prompt, new, params, ignore_eos=True)


async def read(client: Client, asked: GenerateRequest) -> tuple[int, ...]:
    tokens: list[int] = []
    async with client.backend.generate(asked) as generation:
        async for delta in generation:
            tokens += delta.tokens
    return tuple(tokens)


Harm = Callable[[Replicated, list[str]], None]
"""Does something to the providers of a route (peer ids, in its order)."""


async def survive(swarm: Replicated, params: SamplingParams, harm: Harm, *, after: int = 20) -> tuple[list[str], float]:
    """Harm the route in the middle of an answer, which must stay what it is undisturbed; the route after, the gap."""
    asked = request(params)
    async with swarm.client() as client:
        undisturbed = await read(client, asked)
        tokens: list[int] = []
        gap = 0.0
        harmed: float | None = None
        async with client.backend.generate(asked) as generation:
            async for delta in generation:
                if harmed is not None:
                    gap = max(gap, time.monotonic() - harmed)
                tokens += delta.tokens
                if harmed is not None:
                    harmed = time.monotonic()
                elif len(tokens) >= after:
                    harm(swarm, [hop.peer for hop in generation.hops])
                    harmed = time.monotonic()
            route = [hop.peer for hop in generation.hops]
    assert tuple(tokens) == undisturbed
    return route, gap


def kill(*places: int) -> Harm:
    def harm(swarm: Replicated, route: list[str]) -> None:
        for place in places:
            os.kill(swarm.of(route[place]).pid, signal.SIGKILL)
        for place in places:
            swarm.of(route[place]).kill()

    return harm


def in_turn(name: str, values: Sequence[Any]) -> pytest.MarkDecorator:
    """Each value with one way of sampling, in turn; in the long profile with all of them."""
    ways = list(SAMPLING.items())
    chosen = [(value, ways if LONG else [ways[index % len(ways)]]) for index, value in enumerate(values)]
    cases = [pytest.param(value, way, id=f"{value}-{what}") for value, some in chosen for what, way in some]
    return pytest.mark.parametrize((name, "params"), cases)


@in_turn("places", [(0,), (2,), (0, 1), (0, 2), (0, 1, 2)])
async def test_killed_hops_are_replaced(replicated: Replicated, params: SamplingParams, places: tuple[int, ...]):
    swarm = await asyncio.to_thread(replicated.complete)
    before: list[str] = []

    def harm(swarm: Replicated, route: list[str]) -> None:
        before[:] = route
        kill(*places)(swarm, route)

    route, gap = await survive(swarm, params, harm)

    assert {place for place in range(3) if route[place] != before[place]} >= set(places)
    assert gap < 10.0


@in_turn("stage", [0, 1, 2])
async def test_a_span_without_any_provider_is_waited_for(replicated: Replicated, params: SamplingParams, stage: int):
    swarm = await asyncio.to_thread(replicated.complete)
    coming: list[MeshProcess] = []

    def harm(swarm: Replicated, route: list[str]) -> None:
        for process in swarm.stages[stage].values():
            os.kill(process.pid, signal.SIGKILL)
        for process in swarm.stages[stage].values():
            process.kill()
        swarm.stages[stage].clear()
        coming.append(swarm.start(stage))

    route, _ = await survive(swarm, params, harm)

    assert route[stage] == await asyncio.to_thread(swarm.keep, stage, coming[0])


@in_turn("place", [0, 1, 2])
async def test_a_hop_that_stands_still_is_left(replicated: Replicated, params: SamplingParams, place: int):
    swarm = await asyncio.to_thread(replicated.complete)
    stopped: list[str] = []

    def harm(swarm: Replicated, route: list[str]) -> None:
        stopped.append(route[place])
        os.kill(swarm.of(route[place]).pid, signal.SIGSTOP)

    try:
        route, gap = await survive(swarm, params, harm)
    finally:
        for peer in stopped:
            os.kill(swarm.of(peer).pid, signal.SIGCONT)

    assert route[place] != stopped[0]
    assert gap < STOPPED_SECONDS


async def test_a_hop_that_stands_still_for_ten_seconds_and_has_no_replica_is_waited_for(replicated: Replicated):
    swarm = await asyncio.to_thread(replicated.complete)
    loop = asyncio.get_running_loop()

    def harm(swarm: Replicated, route: list[str]) -> None:
        for process in swarm.stages[1].values():
            os.kill(process.pid, signal.SIGSTOP)
            loop.call_later(STOPPED_SECONDS, os.kill, process.pid, signal.SIGCONT)

    _, gap = await survive(swarm, SAMPLING["temperature"], harm)

    assert STOPPED_SECONDS - 1 < gap < STOPPED_SECONDS + 20


@pytest.mark.parametrize("seconds", ["0", "10"], ids=["handed over", "finished"])
async def test_a_provider_that_leaves_loses_nothing(replicated: Replicated, seconds: str):
    swarm = await asyncio.to_thread(replicated.complete)
    for process in swarm.stages[1].values():  # only one provider is there for the stage, and it is told to leave
        process.stop(signal.SIGTERM)
    swarm.stages[1].clear()
    leaving = swarm.start(1, "--drain-seconds", seconds)
    peer = await asyncio.to_thread(swarm.keep, 1, leaving)
    other = swarm.start(1) if seconds == "0" else None  # it is announced after the route has been chosen
    before: list[str] = []

    def harm(swarm: Replicated, route: list[str]) -> None:
        before[:] = route
        leaving.send(signal.SIGINT)

    route, _ = await survive(swarm, SAMPLING["temperature"], harm)
    assert before[1] == peer
    assert route[1] == (peer if other is None else await asyncio.to_thread(swarm.keep, 1, other))
    assert await asyncio.to_thread(leaving.wait) == 0
    assert "Traceback" not in leaving.stderr
    drained = leaving.event("drained")
    assert drained["handed_over"] == (0 if other is None else 1)
