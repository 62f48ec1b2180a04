"""Starts `mesh` processes in a fraction of a second: one that has imported everything forks on request.

    python -m benchmarks.nursery        (reads one JSON object a line, answers with the new process id)

What it forks is a whole `mesh` command in a session of its own, with its own daemon, files and death; only the seconds
of importing are saved, which on a busy machine are most of what starting a provider takes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mesh.transport.guard import die_with
from tests.network.enter import set_namespace


@dataclass(slots=True)
class Forked:
    """A running `mesh` command: its events and its log are in files."""

    pid: int
    out: Path

    @property
    def running(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        except OSError:
            return False

    def find(self, event: str) -> dict[str, Any] | None:
        """The first event of that name, if it has been told."""
        said = self.out.read_bytes() if self.out.exists() else b""
        for line in said.splitlines(keepends=True):
            if line.endswith(b"\n") and (told := json.loads(line))["event"] == event:
                found: dict[str, Any] = told
                return found
        return None

    async def event(self, name: str, *, seconds: float = 120.0) -> dict[str, Any]:
        """The first event of that name, waited for. Raises `RuntimeError` when the process ends before."""
        began = time.monotonic()
        while (found := self.find(name)) is None:
            if not self.running or time.monotonic() - began > seconds:
                log = self.out.with_suffix(".err").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"process {self.pid} told no {name!r}:\n{log}")
            await asyncio.sleep(0.05)
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        if self.running:
            os.kill(self.pid, number)


class Nursery:
    """Use as `async with`; leaving ends every process that still runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: asyncio.subprocess.Process
        self._asking = asyncio.Lock()
        self._all: list[Forked] = []
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "MESH_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_DATA_HOME": str(self.folder / "data"),
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.nursery"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for forked in self._all:
            forked.send(signal.SIGTERM)
        deadline = time.monotonic() + 15
        while any(forked.running for forked in self._all) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for forked in self._all:
            forked.send(signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    async def start(self, *arguments: str, namespace: str | None = None) -> Forked:
        """`mesh ARGUMENTS` in the background, in the network namespace of a path if one is given."""
        out = self.folder / f"{next(self._numbers):04d}.out"
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the nursery has no pipes")
        async with self._asking:
            stdin.write(json.dumps({"arguments": arguments, "out": str(out), "namespace": namespace}).encode() + b"\n")
            await stdin.drain()
            answer = await stdout.readline()
        forked = Forked(json.loads(answer)["pid"], out)
        self._all.append(forked)
        return forked


def serve() -> None:
    """Fork for every request on standard input, until it ends."""
    import torch

    import mesh.cli.join
    import mesh.discovery._hivemind_dht
    import mesh.provider.join  # noqa: F401
    from mesh.cli.main import main

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries what has ended
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        sys.exit("an import has started a thread: a fork would lose it")
    nursery = os.getpid()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            if sys.platform == "linux":
                die_with(nursery)  # which ends with the benchmark, when its standard input does
            out = Path(request["out"])
            nothing = os.open(os.devnull, os.O_RDONLY)
            told = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            logged = os.open(out.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number, file in enumerate((nothing, told, logged)):
                os.dup2(file, number)
            if request["namespace"] is not None:
                set_namespace(request["namespace"])
            sys.argv = ["mesh", *request["arguments"]]
            main()
            sys.exit(0)
        sys.stdout.write(json.dumps({"pid": child}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
