"""`mesh up`: a whole node of one file, which starts and ends as one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.scenarios.processes import LOOPBACK, MeshProcess, World, wait_until


def event(process: MeshProcess, name: str, label: str, number: int = 0) -> dict[str, object]:
    """An event of one of its processes, waited for."""

    def seen() -> list[dict[str, object]]:
        return [each for each in process.events if each["event"] == name and each.get("node") == label]

    wait_until(lambda: len(seen()) > number or not process.running, f"{name} of {label}", seconds=90)
    assert len(seen()) > number, str(process)
    return seen()[number]


def written(folder: Path, checkpoint: Path) -> Path:
    file = folder / "mesh.toml"
    provider = f'model = "{checkpoint}"\nhost_maddrs = "{LOOPBACK}"\nthreads = 1\ndrain_seconds = 1'
    file.write_text(
        f'[relay]\nhost_maddrs = "{LOOPBACK}"\n\n[[provider]]\nlabel = "first"\nblocks = "0:3"\n{provider}\n\n'
        f'[[provider]]\nlabel = "second"\nblocks = "3:5"\n{provider}\n\n[gateway]\nport = 0\n'
    )
    return file


def answers(up: MeshProcess, model: str, number: int = 0) -> bool:
    url = event(up, "ready", "gateway", number)["url"]
    body = {"model": model, "prompt": "a span", "max_tokens": 4}
    try:
        return httpx.post(f"{url}/completions", json=body, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_a_whole_node_serves_starts_again_what_dies_and_leaves_nothing(
    world: World, checkpoint: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, checkpoint)
    up = world.start("up", "--config", str(file), "--json")
    model = str(event(up, "serving", "second")["model"])
    event(up, "serving", "first")
    assert answers(up, model)
    peers = {label: event(up, "joined", label)["peer"] for label in ("first", "second")}

    os.kill(int(str(event(up, "stage_started", "second")["pid"])), signal.SIGKILL)
    ended = event(up, "stage_ended", "second")
    assert ended["reason"] == "killed by SIGKILL" and ended["restart_in"]
    event(up, "serving", "second", 1)
    wait_until(lambda: answers(up, model), "it answers again", seconds=40)

    left = world.succeed("leave", "--identity", str(world.folder / "data/inference-mesh/node-first.key"), "--json")
    assert '"left"' in left
    assert event(up, "stage_ended", "first")["restart_in"] is None
    assert up.stop(signal.SIGINT) == 0
    world.assert_nothing_left()

    again = world.start("up", "--config", str(file), "--json")
    for label, peer in peers.items():
        assert event(again, "joined", label)["peer"] == peer
    assert again.stop() == 0, "also in the middle of its start"


def test_a_node_that_cannot_start_ends_the_command_with_its_reason(world: World, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[relay]\nhost_maddrs = "/ip4/192.0.2.77/tcp/4001"\n')
    done = world.run("up", "--config", str(file), seconds=90)
    assert done.code == 1
    assert "error: relay: " in done.stderr
    refused = world.run("config", "show", "--config", str(file), "--set", "gateway.prot=1")
    assert (refused.code, refused.stdout) == (1, "")
    assert "did you mean port?" in refused.stderr
