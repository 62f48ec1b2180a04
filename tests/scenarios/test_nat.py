"""Providers at home behind routers, public relays between them: sessions run, and `mesh status` says which way."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh.client.client import Client
from mesh.client.types import GenerateRequest
from shards.engine.sampling_params import SamplingParams
from tests.network.namespaces import Namespaces, require
from tests.network.nat import COMMANDS, Flavour, Nats
from tests.scenarios.processes import MeshProcess, World, wait_until
from tests.shards.models import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAME = "at-home"
SPANS = {"a": "0:2", "b": "2:5"}
RELAYS = ("relay1", "relay2")
PROMPT = tuple(range(5, 29))
WITNESSES = 5
PUNCH_PAUSES = (20.0, 80.0, 80.0)
"""Seconds before a session that may find a hole punched: two tries at the start, later what an unused link lives."""
AGAIN_SECONDS = 30.0


@dataclass(slots=True)
class Homes:
    """Two stages in two homes, two public relays, and a public host for the client."""

    world: World
    nats: Nats
    model: Path
    relays: dict[str, MeshProcess] = field(default_factory=dict)
    providers: dict[str, MeshProcess] = field(default_factory=dict)
    more_peers: list[str] = field(default_factory=list)

    @property
    def peers(self) -> list[str]:
        """The relays that run."""
        return [process.event("relaying")["maddrs"][0] for process in self.relays.values() if process.running]

    def start_relay(self, name: str, *arguments: str) -> None:
        others = self.peers
        options = ["--host-maddrs", f"/ip4/{self.nats.addresses[name]}/tcp/4001", "--json"]
        options += ["--identity", str(self.world.folder / f"{name}.key")]
        if others:
            options += ["--peers", ",".join(others)]
        self.relays[name] = self.world.start("relay", *options, *arguments, host=self.nats[name])
        self.relays[name].event("relaying")

    def start_providers(self, *arguments: str) -> None:
        """As an operator at home would: nothing said of NAT or relays, unless the test does."""
        for home, span in SPANS.items():
            options = ["--model", str(self.model), "--name", NAME, "--blocks", span, "--threads", "1", "--json"]
            options += ["--peers", ",".join([*self.peers, *self.more_peers]), *arguments]
            self.providers[home] = self.world.start("join", *options, host=self.nats[home])
        for process in self.providers.values():
            process.event("serving")

    def client(self) -> Client:
        return Client(self.peers, runtime_root=self.world.runtime)

    def peer(self, home: str) -> str:
        peer: str = self.providers[home].event("joined")["peer"]
        return peer

    def relay_of(self, peer: str | None) -> str:
        return next(name for name, process in self.relays.items() if process.event("relaying")["peer"] == peer)

    def ways(self) -> dict[str, dict[str, Any]]:
        """What `mesh status` on the client's host says of the pair, by the home that says it."""
        with self.nats["client"].inside():
            report = json.loads(self.world.succeed("status", "--peers", ",".join(self.peers), "--json"))
        names = {self.peer(home): home for home in self.providers}
        return {
            names[pair["from"]]: pair for pair in report["pairs"] if pair["from"] in names and pair["peer"] in names
        }

    def reached_by(self, home: str) -> set[str]:
        """The relays through which a provider says that it is reached now."""
        told = [event for event in self.providers[home].events if event["event"] == "reached"]
        return {self.relay_of(peer) for peer in told[-1]["relays"]}


@contextmanager
def at_home(model: Path, flavours: dict[str, Flavour], *public: str) -> Iterator[Homes]:
    require(commands=COMMANDS)
    with ExitStack() as stack:
        net = stack.enter_context(Namespaces())
        nats = Nats(net, public=["client", *public], homes=flavours)
        yield Homes(stack.enter_context(World()), nats, model)


@pytest.fixture(scope="module")
def homes(checkpoint: Path) -> Iterator[Homes]:
    """Behind routers that no hole can be punched through."""
    with at_home(checkpoint, {"a": "symmetric", "b": "symmetric", "visitor": "preserving"}, *RELAYS) as made:
        for name in RELAYS:
            made.start_relay(name)
        made.start_providers()
        yield made


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[int]:
    """What transformers continues the prompt with."""
    torch.set_num_threads(1)
    model = reference(checkpoint)
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(160):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


async def read(client: Client, new: int, then: Callable[[], None] = lambda: None, after: int = 20) -> list[int]:
    """The answer; `then` is called once `after` tokens have come."""
    tokens: list[int] = []
    called = False
    asked = GenerateRequest(NAME, PROMPT, new, SamplingParams(), ignore_eos=True)
    async with client.backend.generate(asked) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if not called and len(tokens) >= after:
                called = True
                then()
    return tokens


async def test_sessions_run_between_two_homes_through_a_relay(homes: Homes, expected: list[int]) -> None:
    for home in SPANS:
        assert homes.reached_by(home)
        assert all("/p2p-circuit/p2p/" in maddr for maddr in homes.providers[home].event("joined")["maddrs"][:1])
    with homes.nats["client"].inside():
        async with homes.client() as client:
            answers = await asyncio.gather(*(read(client, 32) for _ in range(3)))
    assert answers == [expected[:32]] * 3


async def test_status_names_the_way_of_the_pair(homes: Homes) -> None:
    # Two providers are a pair once a session ran over both.
    with homes.nats["client"].inside():
        async with homes.client() as client:
            await read(client, 4)
    ways = homes.ways()
    assert {home: pair["way"] for home, pair in ways.items()} == {"a": "relayed", "b": "relayed"}
    assert {homes.relay_of(pair["relay"]) for pair in ways.values()} <= set(RELAYS)
    with homes.nats["client"].inside():
        assert "relayed by …" in homes.world.succeed("status", "--peers", homes.peers[0])


async def test_a_client_may_be_behind_a_router_too(homes: Homes, expected: list[int]) -> None:
    with homes.nats["visitor"].inside():
        async with homes.client() as client:
            assert await read(client, 16) == expected[:16]


async def test_a_client_without_the_daemon_reaches_homes_too(homes: Homes, expected: list[int]) -> None:
    with homes.nats["client"].inside():
        async with Client(homes.peers, runtime_root=homes.world.runtime, transport="libp2p") as client:
            assert await read(client, 16) == expected[:16]


async def test_a_relay_that_dies_takes_no_session_with_it(homes: Homes, expected: list[int]) -> None:
    with homes.nats["client"].inside():
        async with homes.client() as client:
            await read(client, 4)
    relay = homes.relay_of(homes.ways()["a"]["relay"])
    (other,) = set(RELAYS) - {relay}
    wait_until(lambda: all(homes.reached_by(home) == set(RELAYS) for home in SPANS), "both take both", seconds=60)
    with homes.nats["client"].inside():
        async with homes.client() as client:
            tokens = await read(client, 160, homes.relays[relay].kill)
    assert tokens == expected
    wait_until(lambda: all(homes.reached_by(home) == {other} for home in SPANS), f"only {other} is left", seconds=30)
    assert {homes.relay_of(pair["relay"]) for pair in homes.ways().values()} == {other}
    # It comes back, and is taken again.
    homes.start_relay(relay)
    wait_until(
        lambda: all(homes.reached_by(home) == set(RELAYS) for home in SPANS), "taken again", seconds=AGAIN_SECONDS
    )
    homes.relays[relay].stop()


@pytest.fixture
def punchable(checkpoint: Path) -> Iterator[Homes]:
    """Behind routers that keep ports, and with enough public peers to learn their public addresses from."""
    with at_home(checkpoint, {"a": "preserving", "b": "preserving"}, RELAYS[0], "witnesses") as made:
        made.start_relay(RELAYS[0])
        ips = [made.nats.addresses["witnesses"], *made.nats.more_addresses("witnesses", WITNESSES - 1)]
        process = made.nats["witnesses"].popen(
            [sys.executable, "-m", "tests.network.witnesses", str(made.world.folder / "w"), made.peers[0], *ips],
            stdout=subprocess.PIPE,
            env=made.world.environment,
        )
        with process:
            assert process.stdout is not None
            made.more_peers = json.loads(process.stdout.readline())
            made.start_providers()
            yield made
            process.terminate()


@pytest.mark.timeout(400)
async def test_a_hole_is_punched_between_routers_that_keep_ports(punchable: Homes, expected: list[int]) -> None:
    def punched() -> bool:
        ways = punchable.ways()
        return bool(ways) and {pair["way"] for pair in ways.values()} == {"punched"}

    with punchable.nats["client"].inside():
        async with punchable.client() as client:
            # A line that began relayed stays so while it is used: a later session takes the better way.
            for pause in PUNCH_PAUSES:
                await asyncio.sleep(pause)
                seen: list[bool] = []
                assert await read(client, 32, lambda: seen.append(punched()), 10) == expected[:32]  # noqa: B023
                if seen[-1]:
                    return
    raise AssertionError(f"no hole was punched in {sum(PUNCH_PAUSES):g} s")
