"""What a signed record says is dialled, whatever range of addresses it is in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.network.namespaces import Namespaces, require
from tests.scenarios.processes import World

pytestmark = pytest.mark.slow

RANGES = {
    "private": ("192.168.1.{}/24", "ip4"),
    "benchmarking": ("198.18.0.{}/16", "ip4"),
    "documentation": ("192.0.2.{}/24", "ip4"),
    "carrier": ("100.64.0.{}/10", "ip4"),
    "global": ("45.33.32.{}/24", "ip4"),
    "ip6": ("2001:db8::{}/64", "ip6"),
}


@pytest.mark.parametrize("kind", list(RANGES))
def test_hosts_of_any_range_serve_together(world: World, checkpoint: Path, kind: str):
    require()
    pattern, family = RANGES[kind]
    with Namespaces() as net:
        lan = net.bridge("lan")
        hosts = []
        for number in (1, 2, 3):
            hosts.append(net.make(f"h{number}"))
            net.plug(hosts[-1], lan, pattern.format(number))
        options = ["--threads", "1", "--json", "--model", str(checkpoint)]
        first = world.start("join", *options, "--blocks", "0:2", host=hosts[0])
        address = first.event("joined")["maddrs"][0]
        assert address.startswith(f"/{family}/{pattern.format(1).split('/')[0]}/")
        second = world.start("join", *options, "--blocks", "2:5", "--peers", address, host=hosts[1])
        for process in (first, second):
            model = process.event("serving")["model"]
        asked = ["--model", model, "--peers", address, "hello", "--max-tokens", "4"]
        client = world.start("generate", *asked, host=hosts[2])
        assert client.wait(seconds=60) == 0, str(client)
        for process in (client, second, first):
            process.stop()
