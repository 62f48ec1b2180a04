"""`mesh doctor` on this machine: nothing is named while all is well, and faults that are really there are."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.full_disk import small_disk
from tests.network.namespaces import Namespaces, require
from tests.scenarios.processes import LOOPBACK, MeshProcess, Swarm, World
from tests.shifted_clock import ShiftedClock

SECONDS = 90.0


def diagnosis(process: MeshProcess) -> tuple[list[str], dict[str, Any]]:
    """The names of what it finds, and what it read."""
    code = process.wait(seconds=SECONDS)
    said = json.loads(process.stdout)
    names = [each["name"] for each in said["findings"]]
    assert code == (1 if names else 0), str(process)
    return names, said["readings"]


def test_nothing_is_named_on_a_healthy_machine_with_its_swarm_and_its_chain(world: World, swarm: Swarm) -> None:
    file = str(world.folder / "deployment.json")
    chain = world.start("chain", "up", "--port", "0", "--block-time", "1", "--deployment", file, "--json")
    options = ["--rpc", chain.event("ready")["url"], "--deployment", file]
    names, read = diagnosis(
        world.start("doctor", "--peers", swarm.address, "--host-maddrs", LOOPBACK, *options, "--json")
    )
    assert names == []
    assert read["network"]["clocks"] and read["network"]["answers"]
    assert len(read["network"]["versions"]) == 3
    assert read["machine"]["devices"][0]["bandwidth"] > 1e8
    shown = world.succeed("doctor", "--peers", swarm.address, "--host-maddrs", LOOPBACK)
    assert "nothing is wrong" in shown and "others dial /ip4/127.0.0.1/tcp/" in shown


def test_a_closed_port_a_full_disk_and_a_missing_compiler_are_named_at_once(
    world: World, swarm: Swarm, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    closed = f"/ip4/127.0.0.1/tcp/{port}"
    with small_disk(tmp_path / "data") as folder:
        process = world.start(
            *("doctor", "--peers", swarm.address, "--host-maddrs", LOOPBACK, "--announce-maddrs", closed, "--json"),
            more={"PATH": str(tmp_path), "XDG_DATA_HOME": str(folder), "CXX": ""},
        )
        names, _ = diagnosis(process)
    assert sorted(names) == ["closed_port", "full_disk", "no_compiler"]


def test_a_clock_that_is_an_hour_off_is_named(world: World, swarm: Swarm, tmp_path: Path) -> None:
    clock = ShiftedClock(tmp_path)
    clock.shift(3600)
    options = ["--peers", swarm.address, "--host-maddrs", LOOPBACK, "--json"]
    names, _ = diagnosis(world.start("doctor", *options, cold=True, more=clock.environment))
    assert names == ["wrong_clock"]


def test_a_chain_that_is_an_hour_behind_is_named(world: World, tmp_path: Path) -> None:
    clock = ShiftedClock(tmp_path)
    clock.shift(-3600)
    file = str(world.folder / "deployment.json")
    options = ["--port", "0", "--block-time", "1", "--deployment", file, "--json"]
    chain = world.start("chain", "up", *options, cold=True, more=clock.environment)
    url = chain.event("ready")["url"]
    names, _ = diagnosis(world.start("doctor", "--rpc", url, "--deployment", file, "--json"))
    assert names == ["chain_behind"]


@pytest.mark.slow
def test_a_release_that_is_older_than_the_providers_is_named(world: World, checkpoint: Path, tmp_path: Path) -> None:
    installed = tmp_path / "inference_mesh-9.0.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: inference-mesh\nVersion: 9.0.0\n")
    path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    provider = world.join(checkpoint, "--blocks", "0:5", cold=True, more=path)
    provider.event("serving")
    address = provider.event("joined")["maddrs"][0]
    names, read = diagnosis(world.start("doctor", "--peers", address, "--host-maddrs", LOOPBACK, "--json"))
    assert list(read["network"]["versions"].values()) == ["9.0.0"]
    assert names == ["old_version"]


@pytest.mark.slow
def test_an_address_that_is_not_ours_is_named_and_one_that_is_ours_is_dialled(world: World) -> None:
    require()
    with Namespaces() as net:
        lan = net.bridge("lan")
        hosts = []
        for number in (1, 2):
            hosts.append(net.make(f"h{number}"))
            net.plug(hosts[-1], lan, f"198.18.0.{number}/24")
        relay = world.start("relay", "--json", host=hosts[0])
        address = relay.event("relaying")["maddrs"][0]
        asked = ["doctor", "--peers", address, "--relay", "none", "--json"]
        names, read = diagnosis(world.start(*asked, host=hosts[1]))
        assert names == []
        assert {each[1] for answer in read["network"]["answers"].values() for each in answer["knocked"]} >= {"open"}
        unroutable = ["--announce-maddrs", "/ip4/10.9.9.9/tcp/4001"]
        names, _ = diagnosis(world.start(*asked, *unroutable, host=hosts[1]))
        assert names == ["unroutable_address"]
        relay.stop()
