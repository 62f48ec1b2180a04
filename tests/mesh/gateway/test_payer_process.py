"""`mesh pay` as a process of its own, while what it depends on fails: it goes on, or says why not, and pays no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from chain.wallet import create_keystore
from mesh.client.gateway_http import GatewayHttp
from mesh.client.payer_store import PayerStore
from mesh.errors import PaymentRefused
from mesh.gateway.billing import BillingConfig
from tests.full_disk import fill, small_disk
from tests.mesh.gateway.paid import ANN, DOMAIN, GATEWAY, PRICE, Paid, serving_paid
from tests.shifted_clock import ShiftedClock

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

CONFIG = BillingConfig(increment_tokens=64, pause_seconds=20.0)
AGAIN_SECONDS = 15.0


class Agent:
    """A gateway, and `mesh pay` beside it, the child of a shell that leads their group."""

    def __init__(self, paid: Paid, key: str, parent: subprocess.Popen[bytes], log: Path) -> None:
        self.paid, self.key, self.parent, self.log = paid, key, parent, log
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        self.pid = int(child)

    @property
    def runs(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        return False

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ask(self) -> None:
        """A request that needs another voucher."""
        name = next(iter(self.paid.chain.prices))
        with self.paid.openai(self.key) as client:
            client.completions.create(model=name, prompt="one two", max_tokens=64, temperature=0)

    def asks_again(self) -> float:
        """Seconds until two requests were served that had to be paid."""
        began = time.monotonic()
        for _ in range(2):
            self.ask()
        took = time.monotonic() - began
        assert took < AGAIN_SECONDS, self.log.read_text()
        account = self.paid.account(self.key)
        assert int(account["charged"]) <= int(account["signed"])
        return took


@contextmanager
def paying(folder: Path, home: Path, more: dict[str, str]) -> Iterator[Agent]:
    wallet, password, log = folder / "wallet.json", folder / "password", folder / "log"
    password.write_text("secret")
    password.chmod(0o600)
    create_keystore(wallet, ANN, "secret", cost=1024)
    with serving_paid(folder / "accounts.sqlite", CONFIG) as paid:
        key = paid.key()
        command = [sys.executable, "-m", "mesh", "pay", "--json", "--beside", "--trust-gateway", "--gateway", paid.url]
        command += ["--wallet", str(wallet), "--password-file", str(password), "--log-level", "info"]
        with log.open("wb") as stderr:
            parent = subprocess.Popen(
                ["sh", "-c", '"$@" & wait', "sh", *command],
                env={
                    **os.environ,
                    "XDG_DATA_HOME": str(home),
                    "MESH_API_KEY": key,
                    "PYTHONPROFILEIMPORTTIME": "1",
                    **more,
                },
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            assert parent.stdout is not None
            while b'"ready"' not in (line := parent.stdout.readline()):
                assert line, log.read_text()
            agent = Agent(paid, key, parent, log)
            agent.asks_again()
            yield agent
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()
            parent.stdout.close()
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> ShiftedClock:
    return ShiftedClock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # More than the 4 MiB that sqlite lets a -wal grow to.
    with small_disk(tmp_path_factory.mktemp("disk"), "8m") as folder:
        yield folder


@pytest.fixture(scope="module")
def agent(clock: ShiftedClock, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One for all tests, which leave it as it was until the last ones."""
    with paying(tmp_path_factory.mktemp("agent"), disk, clock.environment) as running:
        yield running


def test_a_payer_runs_no_daemon_joins_no_swarm_and_loads_no_model(agent: Agent) -> None:
    assert not Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split(), "no daemon"
    assert "libtorch" not in Path(f"/proc/{agent.pid}/maps").read_text(), "no model"
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True).stdout
    assert f"pid={agent.pid}," not in listening, "nobody can reach it"


@pytest.mark.parametrize("seconds", [3])
def test_a_payer_that_was_stopped_pays_on(agent: Agent, seconds: int) -> None:
    agent.send(signal.SIGSTOP)
    time.sleep(seconds)
    agent.send(signal.SIGCONT)
    agent.asks_again()


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_payer_whose_clock_jumps_pays_on(agent: Agent, clock: ShiftedClock, jump: int) -> None:
    clock.shift(jump)
    agent.asks_again()
    clock.shift(0)
    agent.asks_again()


def test_a_payer_that_was_stopped_for_ten_minutes_pays_on(agent: Agent, clock: ShiftedClock) -> None:
    agent.send(signal.SIGSTOP)
    clock.shift(600, monotonic=True)
    time.sleep(0.5)
    agent.send(signal.SIGCONT)
    agent.asks_again()
    clock.shift(0)


def test_a_payer_that_may_open_nothing_more_pays_again_when_it_may(agent: Agent) -> None:
    pid = agent.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    time.sleep(2)
    assert agent.runs
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    agent.asks_again()


def test_a_payer_whose_disk_is_full_signs_nothing_and_pays_when_there_is_room(agent: Agent, disk: Path) -> None:
    filled = fill(disk)
    try:
        signed = int(agent.paid.account(agent.key)["signed"])
        spent = int(agent.paid.account(agent.key)["charged"])
        room = (signed - spent) // (64 * PRICE) + 2
        with ThreadPoolExecutor(room) as pool:
            waiting = [pool.submit(agent.ask) for _ in range(room)]
            time.sleep(2.5)
            account = agent.paid.account(agent.key)
            assert int(account["charged"]) <= int(account["signed"]) == signed
            assert not all(each.done() for each in waiting), "some have to wait for a voucher"
            assert agent.runs
            filled.unlink()
            for each in waiting:
                each.result(AGAIN_SECONDS)
    finally:
        filled.unlink(missing_ok=True)
    agent.asks_again()


def test_a_payer_whose_parent_was_killed_pays_on(agent: Agent) -> None:
    pid = agent.pid
    agent.parent.kill()
    agent.parent.wait()
    agent.asks_again()
    assert Path(f"/proc/{pid}").exists()


def test_a_payer_whose_reader_left_pays_on_until_its_terminal_is_closed(agent: Agent) -> None:
    assert agent.parent.stdout is not None
    agent.parent.stdout.close()
    agent.asks_again()
    assert agent.runs
    agent.send(signal.SIGHUP)
    began = time.monotonic()
    while agent.runs:
        assert time.monotonic() - began < 10
        time.sleep(0.05)


def test_several_agents_share_the_books_of_a_payer(tmp_path: Path) -> None:
    path, who = tmp_path / "promises.sqlite", ANN.canonical
    with PayerStore(path) as one, PayerStore(path) as other:
        one.promise(DOMAIN, who, GATEWAY, 5)
        assert other.highest(DOMAIN, who, GATEWAY) == 5
        other.promise(DOMAIN, who, GATEWAY, 9)
        one.promise(DOMAIN, who, GATEWAY, 7)
        assert one.highest(DOMAIN, who, GATEWAY) == other.highest(DOMAIN, who, GATEWAY) == 9


async def test_a_payer_reaches_its_gateway_over_ipv6() -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        body = b'{"error": {"message": "no such key", "code": "invalid_api_key"}}'
        writer.write(
            b"HTTP/1.1 401 no\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "::1", 0) as server:
        url = f"http://[::1]:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(PaymentRefused, match="no such key"):
            async with GatewayHttp(url, "key") as http:
                await http.account()
    assert len(seen) == 1
