"""A provider behind a thin line: it says so, and others are preferred."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.network.conditions import Conditions
from tests.network.internet import open_internet
from tests.network.namespaces import Namespaces, require
from tests.scenarios.processes import World, stop_all, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BYTES_PER_SECOND = 24_000.0


def test_routes_keep_away_from_a_provider_behind_a_thin_line(world: World, checkpoint: Path) -> None:
    require(tun=True)
    with ExitStack() as stack:
        net = stack.enter_context(Namespaces())
        internet = stack.enter_context(open_internet(net, ["first", "thin", "wide", "client"], seed=3))
        internet.shape(Conditions(rate=BYTES_PER_SECOND, queue=1 << 20), source=["thin"])
        address = ""

        def join(host: str, blocks: str) -> str:
            nonlocal address
            maddr = f"/ip4/{internet.addresses[host]}/tcp/0"
            process = world.start(
                *("join", "--model", str(checkpoint), "--blocks", blocks, "--threads", "1", "--json"),
                *("--host-maddrs", maddr, *(("--peers", address) if address else ())),
                host=internet[host],
            )
            address = address or process.event("joined")["maddrs"][0]
            process.event("serving")
            return str(process.event("joined")["peer"])

        join("first", "0:2")
        thin, wide = join("thin", "2:5"), join("wide", "2:5")

        def ask(*arguments: str) -> str:
            process = world.start(*arguments, "--peers", address, "--json", host=internet["client"])
            assert process.wait(seconds=60) == 0, str(process)
            world.processes.remove(process)
            return process.stdout

        def speeds() -> dict[str, float]:
            (model,) = json.loads(ask("status"))["models"]
            return {provider["peer"]: provider["tokens_per_second"] for provider in model["providers"]}

        hidden_bytes = json.loads((checkpoint / "config.json").read_text())["hidden_size"] * 4
        most = 1.3 * BYTES_PER_SECOND / hidden_bytes
        wait_until(lambda: speeds()[thin] < most, "the thin line is measured", seconds=60, pause=1.0)
        assert speeds()[wide] > 2 * most
        for _ in range(3):
            route = json.loads(ask("generate", "a span", "--max-tokens", "8"))["route"]
            assert [hop["peer"] for hop in route][1] == wide
        internet.shape(Conditions())
        stop_all(world.processes)
