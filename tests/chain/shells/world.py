"""Real development chains for tests: a `mesh chain up` process, time under control, clients with their own accounts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chain.client.lifecycle import Policy
from chain.client.rpc import Rpc
from chain.client.staking import StakingClient
from chain.deploy import Deployment
from chain.devnet.accounts import faucet
from chain.wallet import Account
from tests.guarded import guarded

START_SECONDS = 60.0
PATIENT = 60.0
QUICK = Policy(resend_after=1.0, stuck_after=2.0, renumber_after=0.5)


@dataclass
class ChainProcess:
    """One running `mesh chain up`."""

    process: subprocess.Popen[bytes]
    url: str
    deployment: Deployment
    deployment_file: Path
    kind: str
    started_in: float
    _accounts: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def stop(self) -> int:
        """As Ctrl-C does; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._close()
        return status

    def _close(self) -> None:
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def environment(**more: str) -> dict[str, str]:
    """An environment in which nothing of this user's is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    return {**kept, "PYTHONWARNINGS": "ignore", **more}


def start_chain(folder: Path, *options: str, anvil: Path | None = None) -> ChainProcess:
    """Start a chain on a free port and wait until it says that it is ready."""
    file = folder / "deployment.json"
    command = [
        sys.executable,
        "-m",
        "mesh",
        "chain",
        "up",
        "--json",
        "--port",
        "0",
        "--deployment",
        str(file),
        *options,
    ]
    if anvil is not None:
        command += ["--anvil", "--anvil-path", str(anvil)]
    began = time.monotonic()
    process = subprocess.Popen(
        guarded(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment(XDG_DATA_HOME=str(folder)),
    )
    assert process.stdout is not None and process.stderr is not None
    line = b""
    if select.select([process.stdout], [], [], START_SECONDS)[0]:
        line = process.stdout.readline()
    if not line:
        process.kill()
        _, words = process.communicate()
        raise AssertionError(f"no chain: {words.decode()[-2000:]}")
    ready: dict[str, Any] = json.loads(line)
    return ChainProcess(process, ready["url"], Deployment.read(file), file, ready["kind"], time.monotonic() - began)


async def eventually(true: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition of the outside world. Raises `AssertionError`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await true():
        assert loop.time() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)


class Net:
    """A chain as a test uses it; everything that a test does is undone after it."""

    def __init__(self, chain: ChainProcess, rpc: Rpc) -> None:
        self.chain = chain
        self.rpc = rpc
        self.url = chain.url
        self.deployment = chain.deployment

    @asynccontextmanager
    async def client(self, account: Account | int | None = 1, **options: Any) -> AsyncIterator[StakingClient]:
        """A client of a well-known account (or of a key, or of none)."""
        chosen = faucet(account) if isinstance(account, int) else account
        options.setdefault("timeout", PATIENT)
        options.setdefault("poll", 0.05)
        options.setdefault("policy", QUICK)
        url = options.pop("url", self.url)
        deployment = options.pop("deployment", self.deployment)
        async with StakingClient(url, deployment, account=chosen, **options) as client:
            yield client

    async def mine(self, blocks: int = 1) -> None:
        await self.rpc.call("anvil_mine", hex(blocks))

    async def automine(self, on: bool) -> None:
        await self.rpc.call("evm_setAutomine", on)

    async def block(self) -> int:
        return int(await self.rpc.call("eth_blockNumber"), 16)

    async def to_epoch(self, client: StakingClient, epoch: int) -> None:
        """Mine so that the next transaction is in the first block of `epoch`."""
        start = await client.epochs.start_block(epoch)
        missing = start - 1 - await self.block()
        assert missing >= 0, f"epoch {epoch} began {-missing} blocks ago"
        await self.mine(missing)

    async def next_epoch(self, client: StakingClient, count: int = 1) -> int:
        """Mine until the epoch that is `count` after that of the next block; returns its number."""
        status = await client.epochs.status()
        epoch = status.epoch + (status.block + 1 >= status.next_start_block) + count
        await self.to_epoch(client, epoch)
        return epoch

    async def snapshot(self) -> str:
        return str(await self.rpc.call("evm_snapshot"))

    async def revert(self, snapshot: str) -> None:
        assert await self.rpc.call("evm_revert", snapshot) is True
