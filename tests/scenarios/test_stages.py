"""`mesh join` with several models or devices: a process per stage, none of which takes the others down."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.processes import LOOPBACK, MeshProcess, Swarm, World, wait_until
from tests.scenarios.test_stopping import alive

STOP_SECONDS = 25.0
TWO_CPUS = ("--device", "cpu", "--device", "cpu")


def start(world: World, *arguments: str, peers: str = "") -> MeshProcess:
    more = ["--peers", peers] if peers else []
    return world.start("join", *arguments, "--host-maddrs", LOOPBACK, "--threads", "1", "--json", *more)


def told(node: MeshProcess, name: str) -> list[dict[str, Any]]:
    return [event for event in node.events if event["event"] == name]


def stages_serve(node: MeshProcess, count: int) -> dict[str, dict[str, Any]]:
    """The first `serving` of every stage, by label."""
    node.event("planned")
    wait_until(
        lambda: len({event["stage"] for event in told(node, "serving")}) == count or not node.running,
        "every stage serves",
        seconds=90,
    )
    served: dict[str, dict[str, Any]] = {}
    for event in told(node, "serving"):
        served.setdefault(event["stage"], event)
    assert len(served) == count, str(node)
    return served


def address(node: MeshProcess) -> str:
    maddr: str = node.event("joined")["maddrs"][0]
    return maddr


def pid_of(node: MeshProcess, label: str) -> int:
    return int([event["pid"] for event in told(node, "stage_started") if event["stage"] == label][-1])


@pytest.fixture(scope="module")
def other(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second model."""
    from tests.shards.models import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("other") / "qwen", "qwen3")


def test_two_devices_serve_two_stages_that_make_up_the_model(world: World, checkpoint: Path) -> None:
    node = start(world, "--model", str(checkpoint), *TWO_CPUS)
    served = stages_serve(node, 2)
    assert sorted(served) == ["llama-1", "llama-2"]
    assert sorted(event["span"] for event in served.values()) == ["0:3", "3:5"]

    (model,) = world.status(address(node))
    assert model["complete"]
    assert {provider["peer"] for provider in model["providers"]} == {event["peer"] for event in told(node, "joined")}
    assert len(model["providers"]) == 2, "a peer per stage"
    assert world.succeed("generate", "--peers", address(node), "-n", "8", "def f(x):")
    stage = next((world.folder / "data" / "inference-mesh").glob("identity-llama-1.key"))
    assert "the key of a stage" in world.run("leave", "--identity", str(stage)).stderr
    assert world.succeed("leave").count("has left") == 1, "its stages are not nodes of their own"
    assert node.wait(seconds=STOP_SECONDS) == 0
    world.assert_nothing_left()


def test_two_models_on_one_device_are_served_side_by_side(world: World, checkpoint: Path, other: Path) -> None:
    node = start(world, "--model", str(checkpoint), "--model", str(other), "--max-blocks", "8")
    served = stages_serve(node, 2)
    assert {event["model"] for event in served.values()} == {"llama", "qwen"}
    models = {model["name"]: model for model in world.status(address(node))}
    assert all(model["complete"] and len(model["providers"]) == 1 for model in models.values())
    for name in models:
        assert world.succeed("generate", "--peers", address(node), "--model", name, "-n", "4", "a")
    table = world.succeed("status", "--peers", address(node))
    assert "llama" in table and "qwen" in table
    assert node.stop(seconds=STOP_SECONDS) == 0
    world.assert_nothing_left()


def test_the_stages_of_a_node_that_comes_later_fill_the_gap_together(world: World, checkpoint: Path) -> None:
    first = Swarm(world, (world.join(checkpoint, "--blocks", "0:1"),)).wait_serving()
    node = start(world, "--model", str(checkpoint), *TWO_CPUS, peers=first.address)
    assert sorted(event["span"] for event in stages_serve(node, 2).values()) == ["1:3", "3:5"]
    wait_until(lambda: bool(world.status(first.address)[0]["complete"]), "the model is complete")


def test_a_stage_that_is_killed_comes_back_as_the_same_peer_and_the_other_serves_on(
    world: World, checkpoint: Path
) -> None:
    node = start(world, "--model", str(checkpoint), *TWO_CPUS)
    served = stages_serve(node, 2)
    # The first of a swarm: it has to come back through the other, or there would be two swarms.
    killed, other = pid_of(node, "llama-1"), pid_of(node, "llama-2")
    os.kill(killed, signal.SIGKILL)
    ended = node.event("stage_ended")
    assert ended["stage"] == "llama-1" and "SIGKILL" in ended["reason"] and ended["restart_in"] == 1
    wait_until(lambda: len(told(node, "serving")) == 3, "it serves again", seconds=90)
    again = told(node, "serving")[-1]
    assert (again["stage"], again["span"]) == ("llama-1", served["llama-1"]["span"])
    peers = [event["peer"] for event in told(node, "joined") if event["stage"] == "llama-1"]
    assert len(peers) == 2 and len(set(peers)) == 1
    assert alive(other) and pid_of(node, "llama-2") == other, "the other was left alone"

    there = next(event["maddrs"][0] for event in told(node, "joined") if event["stage"] == "llama-2")
    (model,) = world.status(there)
    assert model["complete"]
    assert world.succeed("generate", "--peers", there, "-n", "8", "def f(x):")
    assert node.stop(signal.SIGINT, seconds=STOP_SECONDS) == 0
    world.assert_nothing_left()


def test_a_second_ctrl_c_ends_sessions_that_would_have_gone_on(world: World, checkpoint: Path) -> None:
    node = start(world, "--model", str(checkpoint), *TWO_CPUS, "--drain-seconds", "60")
    stages_serve(node, 2)
    client = world.start("generate", "--peers", address(node), "-n", "480", "def f(x):")
    wait_until(lambda: len(client.stdout) > 20, "the answer has begun", seconds=60, pause=0.02)
    node.send(signal.SIGINT)
    node.event("draining")
    assert node.running
    assert node.stop(signal.SIGINT, seconds=STOP_SECONDS) == 0
    client.stop(signal.SIGINT)
    world.assert_nothing_left()


def test_a_node_that_is_killed_takes_its_stages_with_it(world: World, checkpoint: Path) -> None:
    node = start(world, "--model", str(checkpoint), *TWO_CPUS)
    stages_serve(node, 2)
    node.kill()
    wait_until(lambda: not world.left(), "no process is left", seconds=STOP_SECONDS)
    world.run("status", "--peers", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo")


def test_what_cannot_be_served_together_is_refused_before_anything_starts(world: World, checkpoint: Path) -> None:
    model = ("--model", str(checkpoint))
    for arguments, words in (
        ((*model, *TWO_CPUS, "--blocks", "0:2"), "together"),
        ((*model, "--device", "cpu", "--device", "cuda:77"), "cuda"),
        ((*model, "--model", "no-such-model"), "no-such-model"),
        ((*model, "--device", "other=cpu"), "other"),
        ((*model, "--model", "tiny-python", "--name", "both"), "several models"),
        ((*model, *TWO_CPUS, "--wallet", "none.json"), "--yes"),
    ):
        done = world.run("join", *arguments, "--json", seconds=60)
        assert done.code in (1, 2) and words in done.stderr.replace("\n", " "), (arguments, done)
        assert "stage_started" not in done.stdout and "Traceback" not in done.stderr
    world.assert_nothing_left()


def test_the_plan_is_told_without_joining(world: World, checkpoint: Path) -> None:
    shown = world.succeed("join", "--model", str(checkpoint), *TWO_CPUS, "--plan")
    assert "llama-1" in shown and "0:3" in shown and "3:5" in shown
    assert world.runtime_folders() == []


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_node_that_still_plans_stops_too(world: World, checkpoint: Path, number: signal.Signals) -> None:
    node = start(world, "--model", str(checkpoint), *TWO_CPUS)
    wait_until(lambda: bool(world.descendants(node)), "it plans", pause=0.02)
    assert node.stop(number, seconds=STOP_SECONDS) == 0
    assert not told(node, "stage_started") and "Traceback" not in node.stderr
    world.assert_nothing_left()
