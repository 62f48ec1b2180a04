"""anvil, where it is installed, as the development chain: a child process that cannot outlive us unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from chain.client.retry import RetryPolicy
from chain.client.rpc import Rpc
from chain.devnet.accounts import CHAIN_ID, MNEMONIC
from chain.errors import DevnetError, NodeError

START_SECONDS = 30.0
STOP_SECONDS = 10.0
VARIABLE = "MESH_ANVIL"


@dataclass(frozen=True, slots=True)
class Anvil:
    """A running anvil."""

    url: str
    pid: int


def find_anvil(path: Path | None = None) -> Path:
    """The anvil executable: `path`, else MESH_ANVIL, else on PATH. Raises `DevnetError`, which says how to get it."""
    chosen = str(path) if path is not None else os.environ.get(VARIABLE) or shutil.which("anvil")
    if chosen is None or not os.access(chosen, os.X_OK):
        raise DevnetError(
            f"anvil is not installed: `npm install @foundry-rs/anvil` and put it on PATH or into {VARIABLE}, "
            "or leave out --anvil"
        )
    return Path(chosen)


@contextlib.asynccontextmanager
async def run_anvil(
    executable: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    chain_id: int = CHAIN_ID,
    state: Path | None = None,
    block_seconds: float = 0,
) -> AsyncIterator[Anvil]:
    """Run anvil until the block is left. `state` is loaded and saved every second. Raises `DevnetError`."""
    chosen = port or _free_port(host)
    command = [
        str(executable), "--host", host, "--port", str(chosen), "--chain-id", str(chain_id), "--mnemonic", MNEMONIC,
        "--silent", "--hardfork", "prague", "--order", "fifo", "--no-cors",
    ]  # fmt: skip
    if state is not None:
        state.parent.mkdir(parents=True, exist_ok=True)
        command += ["--state", str(state), "--state-interval", "1"]
    if block_seconds:
        command += ["--block-time", f"{block_seconds:g}"]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # None of our settings, and above all no password of ours.
            env={name: value for name, value in os.environ.items() if not name.startswith("MESH_")},
            start_new_session=True,
        )
    except OSError as error:
        raise DevnetError(f"cannot run {executable}: {error}") from error
    words: deque[str] = deque(maxlen=20)
    reader = asyncio.create_task(_read(process, words))
    url = f"http://{host}:{chosen}"
    try:
        await _answering(url, process, words)
        yield Anvil(url, process.pid)
    finally:
        await asyncio.shield(_stop(process, reader))


async def _answering(url: str, process: asyncio.subprocess.Process, words: deque[str]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + START_SECONDS
    async with Rpc(url, RetryPolicy(deadline=0.2, attempt_timeout=2.0)) as rpc:
        while True:
            if process.returncode is not None:
                raise DevnetError(f"anvil ended at once: {' '.join(words)[-500:] or process.returncode}")
            try:
                await rpc.call("eth_chainId")
                return
            except NodeError as error:
                if loop.time() > end:
                    raise DevnetError(f"anvil does not answer: {error}") from error
            await asyncio.sleep(0.02)


async def _read(process: asyncio.subprocess.Process, words: deque[str]) -> None:
    assert process.stderr is not None  # asked for above
    async for line in process.stderr:
        words.append(line.decode(errors="replace").rstrip())


async def _stop(process: asyncio.subprocess.Process, reader: asyncio.Task[None]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)  # it saves its state
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    await asyncio.wait({reader})


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
