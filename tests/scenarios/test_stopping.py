"""How processes end: asked politely, by Ctrl-C, or by `kill -9`, and what they leave behind (nothing)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from shards.checkpoint.manifest import write_manifest
from tests.scenarios.processes import LOOPBACK, MeshProcess, Swarm, World, start_stages, wait_until

POLITE = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 5.0
EXPIRY_SECONDS = 45.0  # a record lives 30
INTERRUPTED = 130


def ends(process: MeshProcess, number: signal.Signals, code: int) -> None:
    """It ends in time, with this exit code and without a traceback."""
    assert process.running
    assert process.stop(number, seconds=STOP_SECONDS) == code, str(process)
    assert "Traceback" not in process.stderr, str(process)


def alive(pid: int) -> bool:
    """Whether a process that is not our child still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def peers_in_status(swarm: Swarm, model: str) -> set[str]:
    found = swarm.world.status(swarm.address, "--model", model)
    return {provider["peer"] for entry in found for provider in entry["providers"]}


def with_a_hole(weights: Path, count: int) -> None:
    """A safetensors file gets one more tensor, of `count` bytes that take no room on disk."""
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:start])
    end = len(data) - start
    table["unused"] = {"dtype": "U8", "shape": [count], "data_offsets": [end, end + count]}
    header = json.dumps(table).encode()
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + data[start:])
        file.truncate(file.tell() + count)


@pytest.mark.parametrize("number", [*POLITE, signal.SIGHUP])
def test_a_provider_leaves_and_is_gone_from_status_at_once(
    swarm: Swarm, world: World, checkpoint: Path, number: signal.Signals
):
    name = f"leaving-{number.name}"
    left = start_stages(world, checkpoint, ["0:3", "3:5"], "--name", name, peers=swarm.address).wait_serving()
    assert peers_in_status(swarm, name) == {left.peer(0), left.peer(1)}
    ends(left.providers[1], number, 0)
    assert peers_in_status(swarm, name) == {left.peer(0)}
    ends(left.providers[0], number, 0)
    assert peers_in_status(swarm, name) == set()
    world.assert_nothing_left()


@pytest.mark.parametrize("number", POLITE)
def test_a_provider_that_is_still_choosing_stops_too(
    swarm: Swarm, world: World, checkpoint: Path, number: signal.Signals
):
    process = world.join(checkpoint, "--name", f"choosing-{number.name}", peers=swarm.address)
    process.event("joined")
    ends(process, number, 0)
    world.assert_nothing_left()
    assert peers_in_status(swarm, f"choosing-{number.name}") == set()


def test_a_provider_that_checks_gigabytes_of_weights_stops_too(world: World, checkpoint: Path, tmp_path: Path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "large"))
    weights = folder / "model.safetensors"
    manifest = write_manifest(folder)
    with_a_hole(weights, 40 << 30)
    listed = json.loads(manifest.read_text())
    listed["files"][weights.name]["size"] = weights.stat().st_size
    manifest.write_text(json.dumps(listed))
    process = world.join(folder, "--blocks", "0:5")
    process.event("chose")
    ends(process, signal.SIGTERM, 0)
    world.assert_nothing_left()


def test_a_provider_is_interrupted_while_it_still_imports(world: World, checkpoint: Path, tmp_path: Path):
    key = tmp_path / "node.key"
    process = world.join(checkpoint, "--identity", str(key), cold=True)
    wait_until(key.exists, "the key is made", pause=0.01)
    process.send(signal.SIGINT)
    assert process.wait(seconds=STOP_SECONDS) != 0
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("number", POLITE)
def test_a_gateway_stops_though_an_answer_is_streaming(swarm: Swarm, world: World, number: signal.Signals):
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", swarm.address)
    url = gateway.event("ready")["url"]
    streaming = threading.Event()
    ended = threading.Event()

    def read() -> None:
        body = {"model": swarm.model, "prompt": "x", "max_tokens": 480, "stream": True, "ignore_eos": True}
        try:
            with httpx.stream("POST", f"{url}/completions", json=body, timeout=30, trust_env=False) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        streaming.set()
        except httpx.HTTPError:
            pass  # cut off, as it should be
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert streaming.wait(30)
    ends(gateway, number, 0)
    assert ended.wait(10)
    reader.join()
    world.assert_nothing_left()


def test_a_gateway_that_is_told_twice_stops_at_once_and_leaves_nothing(swarm: Swarm, world: World):
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", swarm.address)
    url = gateway.event("ready")["url"]
    body = {"model": swarm.model, "prompt": "x", "max_tokens": 480, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/completions", json=body, timeout=30, trust_env=False) as response:
        next(response.iter_lines())
        gateway.send(signal.SIGHUP)
        gateway.send(signal.SIGINT)
        assert gateway.wait(seconds=STOP_SECONDS) == 0
    assert "Traceback" not in gateway.stderr, str(gateway)
    world.assert_nothing_left()


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_provider_whose_reader_left_serves_on(swarm: Swarm, world: World, checkpoint: Path, json_lines: bool):
    name = f"unheard-{json_lines}"
    arguments = ["join", "--model", str(checkpoint), "--blocks", "0:5", "--name", name, "--peers", swarm.address]
    arguments += ["--host-maddrs", LOOPBACK, "--threads", "1", *(["--json"] if json_lines else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "mesh", *arguments],
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # that it has joined
        process.stdout.close()
        wait_until(lambda: bool(peers_in_status(swarm, name)), "it serves", seconds=60)
        process.send_signal(signal.SIGHUP)
        assert process.wait(STOP_SECONDS) == 0
        assert process.stderr is not None
        with process.stderr as stderr:
            said = stderr.read()
        assert "Traceback" not in said, said
    finally:
        process.kill()
        process.wait()
    world.assert_nothing_left()


@pytest.mark.parametrize("number", [*POLITE, signal.SIGHUP])
def test_generate_stops_in_the_middle_of_an_answer(swarm: Swarm, world: World, number: signal.Signals):
    process = world.start("generate", "def add", "--model", swarm.model, "--peers", swarm.address, "-n", "480")
    wait_until(lambda: len(process.stdout) > 20, "the answer has begun", seconds=60, pause=0.01)
    ends(process, number, INTERRUPTED)
    world.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("number", POLITE)
def test_the_demo_stops_with_all_its_processes(world: World, checkpoint: Path, number: signal.Signals):
    demo = world.start("demo", "--model", str(checkpoint), "--max-tokens", "480")
    demo.says("asking llama")
    assert len(world.left()) >= 9  # the demo, three providers and a gateway, each of the four with a p2pd
    ends(demo, number, INTERRUPTED)
    world.assert_nothing_left()


@pytest.mark.slow
def test_a_demo_that_is_killed_takes_every_process_with_it(world: World, checkpoint: Path):
    demo = world.start("demo", "--model", str(checkpoint), "--max-tokens", "480")
    demo.says("asking llama")
    assert len(world.left()) >= 9
    demo.kill()
    wait_until(lambda: not world.left(), "all processes are gone", seconds=STOP_SECONDS)
    # Its folders have no owner any more; the next node that starts removes them.
    assert world.runtime_folders()
    world.run("status", "--peers", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo")
    assert world.runtime_folders() == []


@pytest.mark.slow
def test_a_killed_provider_takes_p2pd_with_it_and_its_record_expires(swarm: Swarm, world: World, checkpoint: Path):
    killed = start_stages(world, checkpoint, ["0:2"], "--name", "killed", peers=swarm.address).wait_serving()
    (provider,) = killed.providers
    children = world.descendants(provider)
    assert children
    provider.kill()
    wait_until(lambda: not any(map(alive, children)), "p2pd is gone", seconds=2, pause=0.02)
    wait_until(lambda: not peers_in_status(swarm, "killed"), "its record has expired", seconds=EXPIRY_SECONDS)
    # What it left in the runtime folder goes with the next node that starts there.
    world.run("status", "--peers", swarm.address)
    world.assert_nothing_left()


def test_a_provider_whose_weights_are_corrupt_is_gone_from_status(
    swarm: Swarm, world: World, checkpoint: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "corrupt"))
    write_manifest(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    process = world.join(folder, "--blocks", "0:2", peers=swarm.address)
    assert process.wait(seconds=60) == 1
    assert process.event("chose")["span"] == "0:2"
    assert peers_in_status(swarm, "corrupt") == set()


def test_a_provider_whose_weights_were_cut_off_joins_nothing(world: World, checkpoint: Path, tmp_path: Path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "short"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    process = world.join(folder, "--blocks", "0:2")
    assert process.wait(seconds=60) == 1
    assert "out of the file's range" in process.stderr
    assert "Traceback" not in process.stderr
    assert process.events == []
