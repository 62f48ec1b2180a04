"""The Go daemon of a node dies: it is started again and the node serves on; where it does not stay, the node ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import httpx

from tests.scenarios.processes import LOOPBACK, MeshProcess, World, start_stages, wait_until

BODY = {"prompt": "x", "max_tokens": 4, "ignore_eos": True}


def daemon_of(process: MeshProcess, world: World) -> int | None:
    for pid in world.descendants(process):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/p2pd"):
                return pid
    return None


def kill_daemon(process: MeshProcess, world: World) -> None:
    pid = daemon_of(process, world)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_gateway_and_provider_answer_again_when_their_daemons_were_killed(world: World, checkpoint: Path):
    swarm = start_stages(world, checkpoint, ["0:5"]).wait_serving()
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", swarm.address)
    url = gateway.event("ready")["url"]
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:

        def ask() -> httpx.Response:
            return http.post("/completions", json={"model": swarm.model, **BODY})

        assert ask().status_code == 200
        for process in (gateway, swarm.providers[0]):
            kill_daemon(process, world)
            began = time.monotonic()
            while (answer := ask()).status_code != 200:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
                assert time.monotonic() - began < 30
                time.sleep(0.2)
            assert "p2pd runs again, as the same peer" in process.stderr
    assert swarm.world.status(swarm.address)[0]["complete"]


def test_a_node_whose_daemon_does_not_stay_ends_with_an_error(world: World):
    relay = world.start("relay", "--host-maddrs", LOOPBACK, "--json")
    relay.event("relaying")
    began = time.monotonic()
    while relay.running and time.monotonic() - began < 60:
        pid = daemon_of(relay, world)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    assert relay.wait() == 1
    assert "error: p2pd was started 5 times again within 10 minutes and does not stay" in relay.stderr
    assert "Traceback" not in relay.stderr
    wait_until(lambda: not world.left(), "nothing is left")
