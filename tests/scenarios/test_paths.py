"""Which way providers reach each other, as `mesh status` shows it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scenarios.processes import World


def test_status_shows_which_pairs_are_connected_directly(world: World, checkpoint: Path) -> None:
    first = world.join(checkpoint, "--blocks", "0:2")
    address = first.event("joined")["maddrs"][0]
    second = world.join(checkpoint, "--blocks", "2:4", peers=address)
    closed = world.join(checkpoint, "--blocks", "4:5", "--direct-port", "-1", peers=address)
    providers = [first, second, closed]
    for provider in providers:
        provider.event("serving")
    ids = [provider.event("joined")["peer"] for provider in providers]

    generate = ("generate", "a span is half-open", "--peers", address, "--max-tokens", "5")
    assert world.succeed(*generate)
    report = json.loads(world.succeed("status", "--peers", address, "--json"))
    ways = {(pair["from"], pair["peer"]): pair["way"] for pair in report["pairs"]}
    assert ways[ids[0], ids[1]] == "direct"
    assert ways[ids[1], ids[0]] == "direct"
    assert ways[ids[1], ids[2]] == "daemon"  # it has no direct port
    reasons = {pair["peer"]: pair["problem"] for pair in report["pairs"] if pair["from"] == ids[1]}
    assert reasons[ids[2]] is not None
    assert "paths" in world.succeed("status", "--peers", address)


def test_a_direct_port_that_is_taken_is_said_so(world: World, checkpoint: Path) -> None:
    first = world.join(checkpoint, "--blocks", "0:2")
    address = first.event("joined")["maddrs"][0]
    port = address.split("/")[4]
    done = world.run(
        *("join", "--model", str(checkpoint), "--blocks", "2:5", "--peers", address),
        *("--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--direct-port", port),
    )
    assert done.code == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr
