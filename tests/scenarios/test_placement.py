"""`mesh join --blocks auto` with real processes: full coverage without overlap, and replicas where they help most."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.processes import MeshProcess, Swarm, World, wait_until


def spans_of(providers: list[MeshProcess]) -> list[tuple[int, int]]:
    spans = [provider.event("serving")["span"].split(":") for provider in providers]
    return sorted((int(start), int(end)) for start, end in spans)


def assert_covered_once(spans: list[tuple[int, int]], n_blocks: int) -> None:
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == n_blocks


def seen(world: World, providers: list[MeshProcess]) -> dict[str, Any]:
    """What `mesh status --json` says once every provider is in it."""
    address = providers[0].event("joined")["maddrs"][0]
    found: list[dict[str, Any]] = []

    def all_there() -> bool:
        found[:] = world.status(address)
        return bool(found) and len(found[0]["providers"]) == len(providers)

    wait_until(all_there, "status shows every provider")
    return found[0]


def test_three_that_start_together_share_the_model_and_one_that_comes_later_goes_where_it_is_slowest(
    world: World, checkpoint: Path
):
    providers = [world.join(checkpoint)]
    address = providers[0].event("joined")["maddrs"][0]
    providers += [world.join(checkpoint, peers=address) for _ in range(2)]
    spans = spans_of(providers)
    assert_covered_once(spans, 5)
    assert len(spans) == 3

    model = seen(world, providers)
    assert model["complete"] and model["gaps"] == []
    assert [block["replicas"] for block in model["blocks"]] == [1] * 5
    assert sorted(provider["blocks"] for provider in model["providers"]) == [f"{a}:{b}" for a, b in spans]
    assert {provider["peer"] for provider in model["providers"]} == {
        provider.event("joined")["peer"] for provider in providers
    }
    assert all(provider["state"] == "serving" and provider["tokens_per_second"] > 0 for provider in model["providers"])
    table = world.succeed("status", "--peers", address)
    assert f"{model['name']} · 5 blocks · complete" in table
    for provider, (start, end) in zip(sorted(model["providers"], key=lambda each: each["blocks"]), spans, strict=True):
        (row,) = [line for line in table.splitlines() if provider["peer"][-8:] in line]
        assert f" {start}:{end} " in row and " serving " in row

    slowest = min(range(5), key=lambda block: model["blocks"][block]["tokens_per_second"])
    fourth = world.join(checkpoint, peers=address)
    start, end = (int(part) for part in fourth.event("serving")["span"].split(":"))
    assert slowest in range(start, end)
    after = seen(world, [*providers, fourth])
    assert [block["replicas"] for block in after["blocks"]] == [1 + (start <= block < end) for block in range(5)]
    assert after["blocks"][slowest]["tokens_per_second"] > min(block["tokens_per_second"] for block in model["blocks"])


def test_three_that_start_one_after_another_share_the_model(world: World, checkpoint: Path):
    swarm = Swarm(world, (world.join(checkpoint),))
    swarm.wait_serving()
    assert swarm.providers[0].event("serving")["span"] == "0:2"
    (model,) = world.status(swarm.address)
    assert not model["complete"] and model["gaps"] == ["2:5"]
    hint = world.succeed("status", "--peers", swarm.address)
    assert "GAPS at blocks 2:5" in hint and "blocks 2:5 are not served: start `mesh join" in hint
    providers = list(swarm.providers)
    for _ in range(2):
        providers.append(world.join(checkpoint, peers=swarm.address))
        providers[-1].event("serving")
    assert_covered_once(spans_of(providers), 5)
    assert [block["replicas"] for block in seen(world, providers)["blocks"]] == [1] * 5


def test_a_node_without_choice_of_blocks_replaces_one_that_left(world: World, checkpoint: Path):
    first = world.join(checkpoint, "--blocks", "0:3")
    address = first.event("joined")["maddrs"][0]
    leaving = world.join(checkpoint, "--blocks", "3:5", peers=address)
    leaving.event("serving")
    assert leaving.stop() == 0
    (model,) = world.status(address)
    assert model["gaps"] == ["3:5"], "a provider that leaves is gone at once"
    assert world.join(checkpoint, peers=address).event("serving")["span"] == "3:5"


def complete(world: World, address: str, without: str) -> bool:
    found = world.status(address)
    return bool(found) and bool(found[0]["complete"]) and all(p["peer"] != without for p in found[0]["providers"])


def answer(world: World, address: str, model: str) -> str:
    return world.succeed("generate", "--peers", address, "--model", model, "--max-tokens", "12", "def f(x):")


@pytest.mark.slow
def test_when_a_provider_is_killed_the_others_take_over_its_blocks(world: World, checkpoint: Path):
    providers = [world.join(checkpoint)]
    address = providers[0].event("joined")["maddrs"][0]
    for _ in range(2):
        providers.append(world.join(checkpoint, peers=address))
        providers[-1].event("serving")
    assert_covered_once(spans_of(providers), 5)
    model = seen(world, providers)["name"]
    before = answer(world, address, model)

    providers[1].send(signal.SIGKILL)
    providers[1].wait()

    killed = providers[1].event("joined")["peer"]
    wait_until(lambda: complete(world, address, killed), "the gap is closed", seconds=75, pause=1.0)
    assert answer(world, address, model) == before
    moves = [[event for event in p.events if event["event"] == "chose"] for p in (providers[0], providers[2])]
    assert sorted(len(chosen) for chosen in moves) == [1, 2], "one of them moved, once"
    assert all(p.stop() == 0 for p in (providers[0], providers[2]))
