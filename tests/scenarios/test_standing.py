"""What running nodes depend on is taken away for a while: they wait or say so, and go on by themselves."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.scenarios.processes import LOOPBACK, MeshProcess, World, start_stages, wait_until

BACK_SECONDS = 30.0
HELD_SECONDS = 8.0
"""Longer than it takes to think that a daemon hangs."""
LEAST_DESCRIPTORS = 8


@dataclass
class Standing:
    """A relay, two providers that know each other through it, and a gateway."""

    world: World
    roles: dict[str, MeshProcess]
    address: str
    url: str
    model: str

    def ask(self, tokens: int = 4, timeout: float = 60.0) -> httpx.Response:
        body = {"model": self.model, "prompt": "x", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        return httpx.post(f"{self.url}/completions", json=body, timeout=timeout, trust_env=False)

    def is_back(self) -> float:
        """Seconds until an answer came, given that it came in time."""

        def answered() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return self.ask(timeout=15.0).status_code == 200
            return False

        took = wait_until(answered, "an answer", seconds=BACK_SECONDS)
        for process in self.roles.values():
            assert process.running, str(process)
            assert "Traceback" not in process.stderr, str(process)
        return took

    def tree(self, role: str) -> list[int]:
        return [self.roles[role].pid, *self.world.descendants(self.roles[role])]

    def send(self, role: str, number: signal.Signals) -> None:
        for pid in self.tree(role):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def stand(world: World, checkpoint: Path, more: dict[str, str]) -> Standing:
    """Relay, one provider and gateway with `more` in their environment, which makes them slow to start."""
    cold = bool(more)
    relay = world.start("relay", "--host-maddrs", LOOPBACK, "--json", cold=cold, more=more)
    address = relay.event("relaying")["maddrs"][0]
    one = world.join(checkpoint, "--blocks", "0:2", peers=address, cold=cold, more=more)
    two = start_stages(world, checkpoint, ["2:5"], peers=address).wait_serving().providers[0]
    model = one.event("serving")["model"]
    gateway = world.start("gateway", "--port", "0", "--json", "--peers", address, cold=cold, more=more)
    roles = {"relay": relay, "provider": one, "gateway": gateway, "other provider": two}
    running = Standing(world, roles, address, gateway.event("ready")["url"], model)
    running.is_back()
    return running


@pytest.fixture(scope="module")
def standing(checkpoint: Path) -> Iterator[Standing]:
    """Stays as it was after every test."""
    with World() as world:
        yield stand(world, checkpoint, {})


@pytest.mark.parametrize("role", ["relay", "provider", "gateway"])
def test_a_node_that_may_open_nothing_more_waits_and_goes_on(standing: Standing, role: str) -> None:
    process = standing.roles[role]
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    # Those with lower numbers are open for as long as the process runs.
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (LEAST_DESCRIPTORS, before[1]))
    try:
        began = time.monotonic()
        wait_until(lambda: "may open no more files" in process.stderr, "its log says so")
        with contextlib.suppress(httpx.HTTPError):
            standing.ask(timeout=2.0)
        time.sleep(max(0.0, HELD_SECONDS - (time.monotonic() - began)))
        assert process.running, str(process)
        assert "p2pd" not in process.stderr, "nothing is wrong with its daemon"
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
    standing.is_back()
    wait_until(lambda: "can be opened again" in process.stderr, "its log says so")


def test_a_command_that_serves_may_open_as_much_as_the_system_lets_it(standing: Standing) -> None:
    soft, hard = resource.prlimit(standing.roles["gateway"].pid, resource.RLIMIT_NOFILE)
    assert soft == min(65_536, hard) or hard == resource.RLIM_INFINITY


@pytest.mark.parametrize("seconds", [3])
@pytest.mark.parametrize("role", ["relay", "provider", "gateway"])
def test_a_node_whose_processor_was_taken_away_serves_on(standing: Standing, role: str, seconds: int) -> None:
    expected = standing.ask(200).json()["choices"][0]["text"]
    said: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: said.append(standing.ask(200, timeout=120)))
    asking.start()
    time.sleep(0.2)
    standing.send(role, signal.SIGSTOP)
    time.sleep(seconds)
    standing.send(role, signal.SIGCONT)
    standing.is_back()
    asking.join()
    if seconds == 3:  # what was under way is whole; after longer it is where there is a replica
        assert said[0].json()["choices"][0]["text"] == expected


@pytest.mark.parametrize("seconds", [3])
def test_a_client_whose_processor_was_taken_away_says_the_same(standing: Standing, seconds: int) -> None:
    arguments = ("generate", "def add", "--model", standing.model, "--peers", standing.address, "-n", "480")
    arguments += ("--temperature", "0")
    expected = standing.world.succeed(*arguments)
    process = standing.world.start(*arguments)
    wait_until(lambda: len(process.stdout) > 20, "the answer has begun", seconds=60, pause=0.01)
    for pid in [process.pid, *standing.world.descendants(process)]:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in [process.pid, *standing.world.descendants(process)]:
        os.kill(pid, signal.SIGCONT)
    code = process.wait(seconds=120)
    standing.world.processes.remove(process)
    assert code == 0, str(process)
    assert process.stdout == expected
