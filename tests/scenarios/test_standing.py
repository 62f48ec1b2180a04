"""What running nodes depend on is taken away for a while: they wait or say so, and go on by themselves."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.scenarios.processes import LOOPBACK, MeshProcess, World, start_stages, wait_until
from tests.shifted_clock import ShiftedClock

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


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> ShiftedClock:
    return ShiftedClock(tmp_path_factory.mktemp("clock"))


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


@pytest.fixture(scope="module")
def clocked(checkpoint: Path, clock: ShiftedClock) -> Iterator[Standing]:
    """One whose relay, provider and gateway have the clock that can be set."""
    with World() as world:
        yield stand(world, checkpoint, clock.environment)


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


@pytest.mark.slow
def test_nodes_whose_processor_was_taken_away_for_ten_minutes_serve_again(
    clocked: Standing, clock: ShiftedClock
) -> None:
    """All that have the clock see ten minutes pass while they are stopped; daemons and the other provider a moment."""
    for role in ("relay", "provider", "gateway"):
        clocked.send(role, signal.SIGSTOP)
    clock.shift(600, monotonic=True)
    time.sleep(1.0)
    clock.shift(0)  # the time of day is the same everywhere when they are woken; only monotonic clocks went on
    for role in ("relay", "provider", "gateway"):
        clocked.send(role, signal.SIGCONT)
    clocked.is_back()


@pytest.mark.parametrize("seconds", [3, pytest.param(40, marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_a_client_whose_processor_was_taken_away_for_ten_minutes_says_the_same(
    standing: Standing, tmp_path: Path
) -> None:
    own = ShiftedClock(tmp_path)
    arguments = ("generate", "def add", "--model", standing.model, "--peers", standing.address, "-n", "480")
    arguments += ("--temperature", "0")
    expected = standing.world.succeed(*arguments)
    process = standing.world.start(*arguments, cold=True, more=own.environment)
    wait_until(lambda: len(process.stdout) > 20, "the answer has begun", seconds=60, pause=0.01)
    os.kill(process.pid, signal.SIGSTOP)
    own.shift(600, monotonic=True)
    own.shift(0)
    os.kill(process.pid, signal.SIGCONT)
    code = process.wait(seconds=120)
    standing.world.processes.remove(process)
    assert code == 0, str(process)
    assert process.stdout == expected


@pytest.mark.slow
@pytest.mark.parametrize("jump", [3600, -3600])
def test_a_client_that_starts_with_a_wrong_clock_says_so_or_is_served(
    standing: Standing, tmp_path: Path, jump: int
) -> None:
    own = ShiftedClock(tmp_path)
    own.shift(jump)
    arguments = ("generate", "x", "--model", standing.model, "--peers", standing.address, "-n", "4")
    client = standing.world.start(*arguments, cold=True, more=own.environment)
    code = client.wait(seconds=90)
    standing.world.processes.remove(client)
    assert "Traceback" not in client.stderr, str(client)
    assert (code == 0 and client.stdout) or (code == 1 and "clock" in client.stderr), str(client)


@pytest.mark.slow
def test_a_client_that_may_open_nothing_more_ends_with_an_error(standing: Standing) -> None:
    arguments = ("generate", "x", "--model", standing.model, "--peers", standing.address, "-n", "4")
    for most in (8, 16, 24):
        limited = [sys.executable, "-m", "mesh", *arguments]
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {most}; exec "$@"', "sh", *limited],
            env=standing.world.environment,
            capture_output=True,
            timeout=90,
        )
        assert done.returncode in (0, 1), done
        assert done.stdout if done.returncode == 0 else b"error: " in done.stderr, done
        assert b"Traceback" not in done.stderr, done.stderr.decode()


@pytest.mark.slow
def test_a_client_whose_reader_left_ends(standing: Standing) -> None:
    arguments = ("generate", "x", "--model", standing.model, "--peers", standing.address, "-n", "480")
    process = subprocess.Popen(
        [sys.executable, "-m", "mesh", *arguments],
        env=standing.world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.wait(60) == 1
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["relay", "gateway", "provider"])
def test_a_node_goes_on_without_its_parent_and_without_a_reader_and_ends_with_its_terminal(
    standing: Standing, checkpoint: Path, role: str
) -> None:
    alone = ["--blocks", "0:5", "--name", "alone", "--threads", "1", "--json", "--host-maddrs", LOOPBACK]
    options = {
        "provider": ["join", "--model", str(checkpoint), *alone],
        "relay": ["relay", "--host-maddrs", LOOPBACK, "--json"],
        "gateway": ["gateway", "--port", "0", "--json", "--peers", standing.address],
    }[role]
    parent = subprocess.Popen(
        ["sh", "-c", '"$@" & wait', "sh", sys.executable, "-m", "mesh", *options],
        env=standing.world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert b'"event"' in parent.stdout.readline()
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
        parent.wait()
        parent.stdout.close()
        time.sleep(2.0)
        os.kill(int(child), signal.SIGHUP)
        wait_until(lambda: not _alive(int(child)), "it has ended", seconds=10)
        with parent.stderr as stderr:
            assert b"Traceback" not in stderr.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False
