"""`mesh leave`: a provider is asked from another terminal to go, and is waited for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.scenarios.processes import Swarm, World, start_stages, wait_until
from tests.shards.models import make_checkpoint

PROMPT = "a span is half-open"


def serving(swarm: Swarm, peers: str) -> set[str]:
    return {provider["peer"] for entry in swarm.world.status(peers) for provider in entry["providers"]}


def test_the_only_provider_here_leaves_and_a_session_ends_first(swarm: Swarm, world: World, tmp_path: Path) -> None:
    # A model that is large enough for its sessions to take longer than two commands take to start.
    size: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 2048, "context_length": 2048}
    large = make_checkpoint(tmp_path / "large", **size)
    own = start_stages(world, large, ("0:5",), "--name", "leaving", peers=swarm.address).wait_serving()
    asked = ("generate", PROMPT, "--model", "leaving", "--peers", own.address, "--max-tokens", "240", "--json")
    whole = json.loads(swarm.world.succeed(*asked))
    running = [world.start(*asked[:-1]) for _ in range(3)]
    wait_until(lambda: all(len(each.stdout) > 5 for each in running), "no text")
    waiting = [world.start("leave", "--json")]
    waiting[0].event("asked")
    waiting.append(world.start("leave", "--json"))  # asked again, it is no more in a hurry than before
    for process in waiting:
        assert process.event("left")["pid"] == own.providers[0].pid
        assert process.wait() == 0
    for each in running:
        assert each.wait() == 0
        assert each.stdout.strip() == whole["text"].strip()
    assert own.providers[0].wait() == 0
    assert own.peer(0) not in serving(swarm, swarm.address)
    gone = world.run("leave")
    assert (gone.code, gone.stdout) == (1, "")
    assert "no provider" in gone.stderr


def test_of_several_one_has_to_be_named_or_all(swarm: Swarm, world: World, checkpoint: Path, tmp_path: Path) -> None:
    key = tmp_path / "other.key"
    names = ("--name", "several")
    first = world.join(checkpoint, "--blocks", "0:5", *names, peers=swarm.address)
    second = world.join(checkpoint, "--blocks", "0:5", *names, peers=swarm.address)
    elsewhere = world.join(checkpoint, "--blocks", "0:5", *names, "--identity", str(key), peers=swarm.address)
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", swarm.address)
    for process in (first, second, elsewhere):
        process.event("serving")
    gateway.event("ready")
    unclear = world.run("leave")
    assert unclear.code == 1
    assert "2 providers run here" in unclear.stderr
    assert f"(process {first.pid})" in unclear.stderr.replace("\n", "")
    assert first.running and second.running and elsewhere.running
    assert "has left" in world.succeed("leave", "--identity", str(key))
    assert elsewhere.wait() == 0
    assert world.succeed("leave", "--all", "--now").count("has left") == 2
    assert (first.wait(), second.wait()) == (0, 0)
    assert gateway.running
    assert first.stderr == second.stderr == "", "neither was cut off in its goodbye"
    keys = sorted((world.folder / "data" / "inference-mesh").glob("*.key"))
    wrong = [world.run("leave", "--identity", str(each)) for each in keys]
    assert [done.code for done in wrong] == [1] * len(keys)
    assert sum("is the key of a gateway" in done.stderr.replace("\n", " ") for done in wrong) == 1
    assert gateway.running
