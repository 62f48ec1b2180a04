"""Real `mesh` processes on loopback for tests: start them, wait for what they say, stop them, find what is left."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import warm
from tests.guarded import guarded
from tests.network.namespaces import Namespace
from tests.warm import WarmProcess

MARK = "LC_MESH_TEST_RUN"
"""Every process of a run inherits this variable, which /proc shows of processes that nobody's child is any more.

It begins as the names do that foreign programs are given too: see `mesh.transport.foreign`.
"""
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
START_SECONDS = 90.0
STOP_SECONDS = 20.0
GONE_SECONDS = 10.0


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = 20.0, pause: float = 0.1) -> float:
    """Wait for a condition of the outside world; returns the seconds it took. Raises `AssertionError`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
    return time.monotonic() - began


class MeshProcess:
    """One running `mesh` command: its JSON events, its output and what it says on stderr."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        stdin: bytes | None = None,
        host: Namespace | None = None,
        *,
        cold: bool = False,
    ) -> None:
        self.arguments = list(arguments)
        self.events: list[dict[str, Any]] = []
        self.stdout = ""
        self.stderr = ""
        self._changed = threading.Condition()
        self._open_pipes = 2
        run = environment.get(MARK, "")
        self._process: WarmProcess | subprocess.Popen[bytes]
        if host is None and not cold and warm.can_start(environment):
            self._process = WarmProcess(arguments, environment, run, stdin=stdin is not None)
        else:
            start = subprocess.Popen if host is None else host.popen
            self._process = start(
                guarded([sys.executable, "-m", "mesh", *arguments]),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        self._readers = [
            threading.Thread(
                target=self._read, args=(getattr(self._process, pipe), pipe), name=f"{pipe} of {run}", daemon=True
            )
            for pipe in ("stdout", "stderr")
        ]
        for reader in self._readers:
            reader.start()
        if stdin is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def event(self, name: str, *, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The first event of that name, waited for."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [event for event in self.events if event["event"] == name]
            return bool(found) or not self._open_pipes

        with self._changed:
            self._changed.wait_for(there, timeout=seconds)
        assert found, f"no {name!r} within {seconds:g} s from {self}"
        return found[0]

    def says(self, text: str, *, seconds: float = START_SECONDS) -> None:
        """Wait until its stdout contains `text`."""
        with self._changed:
            self._changed.wait_for(lambda: text in self.stdout or not self._open_pipes, timeout=seconds)
        assert text in self.stdout, f"no {text!r} within {seconds:g} s from {self}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Its exit code (negative for the signal that killed it), once its output is read too."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s: {self}") from None
        for reader in self._readers:
            reader.join(seconds)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = STOP_SECONDS) -> int:
        """Send a signal and wait for the end."""
        if self.running:
            self.send(number)
        return self.wait(seconds=seconds)

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        if self.running:
            self._process.kill()
        self._process.wait(STOP_SECONDS)
        for reader in self._readers:
            reader.join(STOP_SECONDS)

    def __str__(self) -> str:
        return f"mesh {' '.join(self.arguments)}\nstdout: {self.stdout[-2000:]}\nstderr: {self.stderr[-4000:]}"

    def _read(self, pipe: Any, name: str) -> None:
        with pipe:
            while data := pipe.readline() if name == "stderr" or "--json" in self.arguments else pipe.read1():
                with self._changed:
                    setattr(self, name, getattr(self, name) + data.decode(errors="replace"))
                    if name == "stdout" and data.startswith(b'{"event"'):
                        self.events.append(json.loads(data))
                    self._changed.notify_all()
        with self._changed:
            self._open_pipes -= 1
            self._changed.notify_all()


@dataclass(slots=True)
class Finished:
    """A command that has run to its end."""

    code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass
class World:
    """The processes of one group of tests, with a runtime folder and identities of their own."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mt-")))
    mark: str = field(default_factory=lambda: secrets.token_hex(5))
    processes: list[MeshProcess] = field(default_factory=list)

    @property
    def runtime(self) -> Path:
        """Where the nodes' sockets go: a path short enough for a socket."""
        return self.folder / "run"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            MARK: self.mark,
            "MESH_RUNTIME_DIR": str(self.runtime),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs; unless the tests failed already, nothing may be left of it."""
        for process in reversed(self.processes):
            if process.running:
                process.send(signal.SIGTERM)
        try:
            for process in self.processes:
                process.wait()
            if error is None:
                self.assert_nothing_left()
        finally:
            for process in self.processes:
                process.kill()
            for pid, _ in self.left():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        host: Namespace | None = None,
        cold: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> MeshProcess:
        """`mesh ARGUMENTS` in the background, in a network namespace if one is given; `cold`: with nothing imported.

        `more` is for its environment; what the loader reads there needs `cold`.
        """
        process = MeshProcess(arguments, {**self.environment, **(more or {})}, stdin, host, cold=cold)
        self.processes.append(process)
        return process

    def join(
        self,
        model: Path | str,
        *arguments: str,
        peers: str = "",
        cold: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> MeshProcess:
        """A provider on loopback that tells its events as JSON lines."""
        joined = ["--peers", peers] if peers else []
        options = ("--host-maddrs", LOOPBACK, "--threads", "1", "--json", *joined, *arguments)
        return self.start("join", "--model", str(model), *options, cold=cold, more=more)

    def run(self, *arguments: str, stdin: bytes | None = None, seconds: float = 60.0) -> Finished:
        """`mesh ARGUMENTS` to its end."""
        began = time.monotonic()
        process = self.start(*arguments, stdin=stdin)
        code = process.wait(seconds=seconds)
        self.processes.remove(process)
        return Finished(code, process.stdout, process.stderr, time.monotonic() - began)

    def succeed(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What `mesh ARGUMENTS` prints, given that it succeeds."""
        done = self.run(*arguments, stdin=stdin)
        assert done.code == 0, f"exit code {done.code} of mesh {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def status(self, peers: str, *arguments: str) -> list[dict[str, Any]]:
        """What `mesh status --json` reports: one entry per model."""
        report = self.succeed("status", "--peers", peers, "--json", *arguments)
        models: list[dict[str, Any]] = json.loads(report)["models"]
        return models

    def left(self) -> list[tuple[int, str]]:
        """Living processes of this world, whoever their parent is: process id and command."""
        return list(_marked(self.mark))

    def descendants(self, process: MeshProcess) -> list[int]:
        """The living children of a process and theirs."""
        return _tree(process.pid)

    def runtime_folders(self) -> list[str]:
        """Runtime directories that were not cleaned up."""
        return sorted(path.name for path in self.runtime.glob("*"))

    def assert_nothing_left(self, *, seconds: float = GONE_SECONDS) -> None:
        """No `mesh`, no p2pd and no runtime directory of this world."""
        wait_until(lambda: not self.left(), f"processes left: {self.left()}", seconds=seconds)
        assert self.runtime_folders() == []


@dataclass(frozen=True, slots=True)
class Swarm:
    """A model served by running providers."""

    world: World
    providers: tuple[MeshProcess, ...]

    @property
    def address(self) -> str:
        maddr: str = self.providers[0].event("joined")["maddrs"][0]
        return maddr

    @property
    def model(self) -> str:
        name: str = self.providers[0].event("serving")["model"]
        return name

    def peer(self, index: int) -> str:
        peer: str = self.providers[index].event("joined")["peer"]
        return peer

    def wait_serving(self) -> Self:
        for provider in self.providers:
            provider.event("serving")
        return self


def start_stages(world: World, model: Path, spans: Sequence[str], *arguments: str, peers: str = "") -> Swarm:
    """One provider per span, started at once (the others join through the first where no `peers` are given)."""
    providers: list[MeshProcess] = []
    for span in spans:
        address = peers or (providers[0].event("joined")["maddrs"][0] if providers else "")
        providers.append(world.join(model, "--blocks", span, *arguments, peers=address))
    return Swarm(world, tuple(providers))


def stop_all(processes: Sequence[MeshProcess]) -> None:
    """End them together and wait for all."""
    for process in processes:
        if process.running:
            process.send(signal.SIGTERM)
    for process in processes:
        assert process.wait() == 0, str(process)


def _marked(mark: str) -> Iterator[tuple[int, str]]:
    wanted = f"{MARK}={mark}".encode()
    name = warm.name(mark)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) == os.getpid():
                continue
            if (folder / "comm").read_bytes() == name + b"\n":
                yield int(folder.name), "a mesh process that was started warm"
            elif wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _tree(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_tree(int(child))]
    return found
