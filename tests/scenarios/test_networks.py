"""Hosts whose network changes or is narrow: nodes are found and serve all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.network.namespaces import Namespace, Namespaces, require
from tests.scenarios.processes import MeshProcess, World, wait_until

pytestmark = pytest.mark.slow


@dataclass
class Lan:
    """A relay, a provider and a client's host on one switch."""

    world: World
    relay: Namespace
    provider: Namespace
    client: Namespace
    cables: list[str]

    def start_provider(self, checkpoint: Path) -> tuple[str, MeshProcess]:
        relay = self.world.start("relay", "--json", host=self.relay)
        address = relay.event("relaying")["maddrs"][0]
        options = ["--threads", "1", "--json", "--model", str(checkpoint), "--blocks", "0:5", "--peers", address]
        provider = self.world.start("join", *options, host=self.provider)
        provider.event("serving")
        return address, provider

    def ask(self, address: str, model: str, tokens: int = 4) -> bool:
        asked = ["--model", model, "--peers", address, "hello", "--max-tokens", str(tokens)]
        client = self.world.start("generate", *asked, host=self.client)
        code = client.wait(seconds=90)
        self.world.processes.remove(client)
        return code == 0


@pytest.fixture
def lan(world: World) -> Iterator[Lan]:
    require()
    with Namespaces() as net:
        switch = net.bridge("lan")
        hosts = [net.make(f"h{number}") for number in (1, 2, 3)]
        cables = [net.plug(host, switch, f"192.0.2.{number}/24") for number, host in enumerate(hosts, 1)]
        try:
            yield Lan(world, *hosts, cables)
        finally:
            for process in reversed(world.processes):
                process.stop()


def test_a_provider_whose_address_changes_is_found_at_the_new_one(lan: Lan, checkpoint: Path) -> None:
    address, provider = lan.start_provider(checkpoint)
    model = provider.event("serving")["model"]
    assert lan.ask(address, model)
    cable = lan.cables[1]
    lan.provider.ip("addr", "del", "192.0.2.2/24", "dev", cable)
    lan.provider.ip("addr", "add", "192.0.2.77/24", "dev", cable)
    wait_until(lambda: lan.ask(address, model), "it is found again", seconds=60)
    assert provider.running


def test_nodes_between_which_only_small_packets_pass_serve(lan: Lan, checkpoint: Path) -> None:
    for host, cable in zip((lan.relay, lan.provider, lan.client), lan.cables, strict=True):
        if host is not lan.relay:
            host.ip("link", "set", cable, "mtu", "1280")
    address, provider = lan.start_provider(checkpoint)
    model = provider.event("serving")["model"]
    assert lan.ask(address, model, 64)
    gateway = lan.world.start(
        "gateway", "--host", "0.0.0.0", "--port", "8000", "--json", "--peers", address, host=lan.client
    )
    gateway.event("ready")
    body = {"model": model, "prompt": "x" * 400, "max_tokens": 64, "logprobs": 5}
    with lan.relay.inside():
        answer = httpx.post("http://192.0.2.3:8000/v1/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
