"""Providers and client on hosts of their own, with bad lines between them: no token is lost, none is another one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mesh.client.client import Client
from mesh.client.types import GenerateRequest
from shards.engine.sampling_params import SamplingParams
from tests.network.conditions import Conditions
from tests.network.internet import Internet, open_internet
from tests.network.namespaces import Namespaces, require
from tests.scenarios.processes import MeshProcess, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SPANS = ("0:2", "2:4", "4:5")
HOSTS = [f"{stage}{replica}" for replica in "ab" for stage in ("first", "middle", "last")]
NEWCOMER = "newcomer"
CLIENT = "client"
NAME = "apart"
SAMPLING = {"greedy": SamplingParams(), "temperature": SamplingParams(temperature=0.8, seed=4)}
PARTITION_SECONDS = 20.0
LONGEST_GAP = 45.0  # a whole stage is away for 20 s, and TCP asks at intervals that double whether it is back
IDS = ["two hops", "the client"]


@dataclass(slots=True)
class Apart:
    """Three stages with two providers each, on hosts of their own, and a host for the client."""

    world: World
    internet: Internet
    model: Path
    providers: dict[str, MeshProcess] = field(default_factory=dict)
    """By host."""
    expected: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Undisturbed answers, by request."""

    def start(self) -> None:
        """Bring up all providers; the others join through the first."""
        for number, host in enumerate(HOSTS):
            self.providers[host] = self.join(host, SPANS[number % len(SPANS)])
            if not number:
                self.providers[host].event("joined")
        for process in self.providers.values():
            process.event("serving")

    def join(self, host: str, blocks: str) -> MeshProcess:
        """A provider on a host, through the first one where there is one."""
        options = ["--model", str(self.model), "--name", NAME, "--blocks", blocks, "--threads", "1", "--json"]
        options += ["--host-maddrs", f"/ip4/{self.internet.addresses[host]}/tcp/0"]
        if self.providers:
            options += ["--peers", self.addresses[0]]
        return self.world.start("join", *options, host=self.internet[host])

    @property
    def addresses(self) -> list[str]:
        joined = (process.event("joined") for process in self.providers.values())
        return [event["maddrs"][0] for event in joined]

    def host(self, peer: str) -> str:
        return next(host for host, process in self.providers.items() if process.event("joined")["peer"] == peer)


@pytest.fixture(scope="module")
def apart(checkpoint: Path) -> Iterator[Apart]:
    require(tun=True)
    with ExitStack() as stack:
        net = stack.enter_context(Namespaces())
        internet = stack.enter_context(open_internet(net, [CLIENT, *HOSTS, NEWCOMER], seed=5))
        made = Apart(stack.enter_context(World()), internet, checkpoint)
        made.start()
        yield made


@pytest.fixture(autouse=True)
def lines(apart: Apart) -> Iterator[None]:
    """The test runs on the client's host, and begins and ends with perfect lines."""
    apart.internet.shape(Conditions())
    apart.internet.heal()
    with apart.internet[CLIENT].inside():
        yield
    apart.internet.shape(Conditions())
    apart.internet.heal()


def requests(new: int, each: int = 1) -> list[GenerateRequest]:
    """Every kind of sampling, `each` times."""
    rng = random.Random(7)
    prompts = [tuple(rng.randrange(300) for _ in range(24)) for _ in range(each)]
    return [
        GenerateRequest(NAME, prompt, new, params, ignore_eos=True)
        for prompt in prompts
        for params in SAMPLING.values()
    ]


async def read(
    client: Client, asked: GenerateRequest, *, after: int = 0, then: Callable[[list[str]], None] | None = None
) -> tuple[tuple[int, ...], list[str], float]:
    """Tokens, the route at the end, the longest wait; when `after` tokens have come, `then` hears of the route."""
    tokens: list[int] = []
    last, gap = time.monotonic(), 0.0
    async with client.backend.generate(asked) as generation:
        async for delta in generation:
            if tokens:
                gap = max(gap, time.monotonic() - last)
            last = time.monotonic()
            tokens += delta.tokens
            if then is not None and len(tokens) >= after:
                then([hop.peer for hop in generation.hops])
                then = None
        return tuple(tokens), [hop.peer for hop in generation.hops], gap


async def undisturbed(apart: Apart, client: Client, asked: Sequence[GenerateRequest]) -> list[tuple[int, ...]]:
    for request in asked:
        if repr(request) not in apart.expected:
            apart.expected[repr(request)] = (await read(client, request))[0]
    return [apart.expected[repr(request)] for request in asked]


LOSSY = Conditions(loss=0.05)
SLOW = Conditions(delay=0.1, jitter=0.05)
BOTH = Conditions(loss=0.05, delay=0.1, jitter=0.05)
BAD = {"loss": LOSSY, "delay": SLOW, "loss, delay and reordering": replace(BOTH, reorder=True)}


@pytest.mark.parametrize("conditions", BAD.values(), ids=BAD)
async def test_bad_lines_change_no_token(apart: Apart, conditions: Conditions) -> None:
    asked = requests(24, each=2)
    async with Client(apart.addresses, runtime_root=apart.world.runtime) as client:
        expected = await undisturbed(apart, client, asked)
        apart.internet.shape(conditions)
        found = await asyncio.gather(*(read(client, request) for request in asked))
    assert [tokens for tokens, *_ in found] == expected


async def test_a_client_and_a_provider_that_come_over_bad_lines_find_the_swarm(apart: Apart) -> None:
    asked = requests(16)
    async with Client(apart.addresses, runtime_root=apart.world.runtime) as client:
        expected = await undisturbed(apart, client, asked)
    apart.internet.shape(BOTH)
    newcomer = apart.join(NEWCOMER, SPANS[1])
    async with Client(apart.addresses, runtime_root=apart.world.runtime) as client:
        found = await asyncio.gather(*(read(client, request) for request in asked))
    assert [tokens for tokens, *_ in found] == expected
    await asyncio.to_thread(newcomer.event, "serving")
    apart.internet.shape(Conditions())
    assert await asyncio.to_thread(newcomer.stop) == 0


Partition = Callable[[Internet, list[str]], None]
"""Parts hosts; given those on the route, in its order."""


def of(*places: int) -> Partition:
    def part(internet: Internet, route: list[str]) -> None:
        internet.cut([route[place] for place in places], seconds=PARTITION_SECONDS)

    return part


def stage(place: int) -> Partition:
    def part(internet: Internet, route: list[str]) -> None:
        name = route[place][:-1]
        internet.cut([host for host in internet.hosts if host.startswith(name)], seconds=PARTITION_SECONDS)

    return part


def from_client(place: int) -> Partition:
    return lambda internet, route: internet.cut([CLIENT], [route[place]], seconds=PARTITION_SECONDS)


def between(one: int, other: int) -> Partition:
    return lambda internet, route: internet.cut([route[one]], [route[other]], seconds=PARTITION_SECONDS)


def deaf(one: int, other: int) -> Partition:
    return lambda internet, route: internet.cut_one_way([route[one]], [route[other]], seconds=PARTITION_SECONDS)


PARTITIONS = {
    "the first hop": of(0),
    "the last hop": of(2),
    "two hops": of(0, 2),
    "a whole stage": stage(1),
    "client and last hop": from_client(2),
    "first and middle hop": between(0, 1),
    "last and first hop": between(2, 0),
    "middle to last hop, one way": deaf(1, 2),
}


async def part_each(
    apart: Apart, client: Client, asked: Sequence[GenerateRequest], part: Partition, after: int
) -> list[tuple[tuple[int, ...], list[str], float]]:
    """Answers to all requests at once; the first route that has brought `after` tokens is parted."""
    parted: list[str] = []

    def then(route: list[str]) -> None:
        if not parted:
            parted.extend(apart.host(peer) for peer in route)
            part(apart.internet, parted)

    found = await asyncio.gather(*(read(client, request, after=after, then=then) for request in asked))
    assert parted
    return found


@pytest.mark.parametrize("part", PARTITIONS.values(), ids=PARTITIONS)
async def test_a_partition_changes_no_token(apart: Apart, part: Partition) -> None:
    asked = requests(160)
    async with Client(apart.addresses, runtime_root=apart.world.runtime) as client:
        expected = await undisturbed(apart, client, asked)
        found = await part_each(apart, client, asked, part, after=20)
    assert [tokens for tokens, *_ in found] == expected
    assert max(gap for *_, gap in found) < LONGEST_GAP


@pytest.mark.parametrize("part", [of(0, 1), lambda net, route: net.cut([CLIENT], seconds=PARTITION_SECONDS)], ids=IDS)
async def test_a_partition_of_bad_lines_changes_no_token(apart: Apart, part: Partition) -> None:
    asked = requests(48)
    async with Client(apart.addresses, runtime_root=apart.world.runtime) as client:
        expected = await undisturbed(apart, client, asked)
        apart.internet.shape(BOTH)
        began = time.monotonic()
        found = await part_each(apart, client, asked, part, after=8)
        assert [tokens for tokens, *_ in found] == expected
        left = PARTITION_SECONDS - (time.monotonic() - began)
        if left > 0:  # what begins meanwhile, and goes on when it is over
            found = await asyncio.gather(*(read(client, request) for request in asked))
            assert [tokens for tokens, *_ in found] == expected
