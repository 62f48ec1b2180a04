"""What a test left behind: processes, sockets, threads, temporary files and folders, network namespaces.

A pytest plugin (see `tests/conftest.py`). After every test, once everything that ends with it has been torn down, what
is there is compared with what was there when the session began. What fixtures of a wider scope (module, session)
started is theirs while they live. Who leaves something behind fails, by name.

Every process of the session inherits the variable `MARK`, which /proc shows of processes that are nobody's child any
more; temporary files go to a folder of the session's own (`TMPDIR`). So parallel sessions (pytest-xdist) judge only
their own. A namespace is nobody's: it is judged where its name has this session's mark or process id in it.
"""

# ruff: noqa: PTH115, PTH208 (after every test: pathlib takes several times as long here)

from __future__ import annotations

import contextlib
import gc
import getpass
import multiprocessing.process
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mesh.transport.runtime_dir import RuntimeDirectory
from shards.grammar.forms import SANDBOX as FORMS_SANDBOX
from shards.text.chat_template import SANDBOX
from tests import warm

MARK = "LC_LEFTOVERS_OF_SESSION"  # a name that foreign programs are given too: see `mesh.transport.foreign`
GRACE_SECONDS = 5.0
"""How long what has been told to end may take; nothing waits for it where nothing is left."""
NAMESPACES = Path("/run/netns")
HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes that Python itself keeps for as long as the session runs."""
RUN = "LC_MESH_TEST_RUN"
"""The variable by which a group of tests knows its own processes (`tests/scenarios/processes.py`)."""
LASTING_THREADS = ("pydevd", "tqdm", "execnet", "asyncio-waitpid", "asyncio_", "namespaces", "text_")
"""Threads that libraries, mesh/client/text_threads.py and tests/network keep for as long as the process runs, by the
beginning of their names. Those of an event loop's executor end with the loop, and a loop that does not end is found by
its sockets."""
LOOP = "anon_inode:[eventpoll]"
LASTING_FILES = ("lock", "torchinductor_", "matplotlib-", "hivemind", "pymp-", "hsperfdata", "data-gym-cache")
"""The session's own lock, and caches that libraries keep in the temporary folder."""

_lasting_runs: set[str] = set()

Leftover = tuple[str, str]
"""What it is (process, thread, socket, file, namespace) and which."""


@contextlib.contextmanager
def lasting(run: str) -> Generator[None]:
    """Meanwhile processes with this value of `RUN`, and threads with it in their names, may outlive a test.

    For a wider fixture whose tests kill and start processes; it has to see to it that all of them end.
    """
    _lasting_runs.add(run)
    try:
        yield
    finally:
        _lasting_runs.discard(run)


@dataclass
class Watch:
    """Looks at what is there."""

    mark: str
    folder: Path
    _strangers: set[int] = field(default_factory=set)
    _ours: dict[int, str] = field(default_factory=dict)
    _runs: dict[int, str] = field(default_factory=dict)
    """The value of `RUN` that our processes have."""

    def look(self) -> dict[Leftover, str]:
        """Everything of ours that is there now, described."""
        return {**self._processes(), **self._sockets(), **self._threads(), **self._files(), **self._namespaces()}

    def _processes(self) -> dict[Leftover, str]:
        there = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        children = set(_children())
        self._strangers &= there
        self._ours = {pid: text for pid, text in self._ours.items() if pid in there}
        self._runs = {pid: run for pid, run in self._runs.items() if pid in there}
        wanted = f"{MARK}={self.mark}".encode()
        own = os.getpid()
        for pid in there - self._strangers - self._ours.keys():
            if pid == own:
                continue
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            variables = environment.split(b"\0")
            if pid in children or wanted in variables:
                for variable in variables:
                    if variable.startswith(f"{RUN}=".encode()):
                        self._runs[pid] = variable.partition(b"=")[2].decode(errors="replace")
                if name.startswith(warm.NAME):  # its environment and command are those of the process it is forked from
                    self._runs[pid] = name.removeprefix(warm.NAME)
                    self._ours[pid] = f"{name} (mesh, started warm)"
                elif not any(helper in command for helper in HELPERS):
                    self._ours[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()[:200]
            elif environment:  # one without has only just been forked, or is dead
                self._strangers.add(pid)
        return {
            ("process", str(pid)): text or "(ended, and not waited for)"
            for pid, text in self._ours.items()
            if self._runs.get(pid) not in _lasting_runs
        }

    def _sockets(self) -> dict[Leftover, str]:
        found = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")
                if target.startswith(("socket:", LOOP)):
                    found["socket", f"{name} {target}"] = "an open socket or event loop of this process"
        return found

    def _threads(self) -> dict[Leftover, str]:
        return {
            ("thread", f"{thread.name} {thread.ident}"): "a thread of this process"
            for thread in threading.enumerate()
            if thread is not threading.main_thread()
            and not thread.name.startswith(LASTING_THREADS)
            and not any(run in thread.name for run in _lasting_runs)
        }

    def _files(self) -> dict[Leftover, str]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return {}
        return {("file", str(self.folder / name)): _kind(self.folder / name) for name in names if _is_left(name)}

    def _namespaces(self) -> dict[Leftover, str]:
        try:
            names = os.listdir(NAMESPACES)
        except FileNotFoundError:
            return {}
        return {
            ("namespace", name): f"ip netns del {name}"
            for name in names
            if self.mark in name or str(os.getpid()) in re.findall(r"\d+", name)
        }


class Keeper:
    """Decides what is a leftover: what is there, was not there at first, and is no living wider fixture's."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._before = set(watch.look())
        self._kept: dict[object, set[Leftover]] = {}

    def begin(self) -> set[Leftover]:
        """What is there before a wider fixture is set up."""
        return set(self.watch.look())

    def keep(self, owner: object, before: set[Leftover]) -> None:
        """What has come since belongs to the fixture."""
        self._kept[owner] = set(self.watch.look()) - before

    def release(self, owner: object) -> None:
        """The fixture has ended, and what it had must be gone."""
        self._kept.pop(owner, None)

    def left(self, *, seconds: float = GRACE_SECONDS) -> dict[Leftover, str]:
        """What is left over; each is told once. Waits up to `seconds`, if there is anything."""
        deadline = time.monotonic() + seconds
        while found := self._unaccounted():
            if time.monotonic() > deadline:
                self._before |= found.keys()
                return found
            gc.collect()  # cycles that hold sockets
            time.sleep(0.02)
        return {}

    def _unaccounted(self) -> dict[Leftover, str]:
        kept = set().union(*self._kept.values())
        # A server that lives on in this process opens sockets and threads when it is used: they are judged at its end.
        lasting = {"socket", "thread"} if any(LOOP in name for _, name in kept) else set()
        return {
            what: text
            for what, text in self.watch.look().items()
            if what not in self._before and what not in kept and what[0] not in lasting
        }


class LeftoversPlugin:
    """Asks the keeper after every test and at the end of the session."""

    def __init__(self, keeper: Keeper, *, seconds: float = GRACE_SECONDS) -> None:
        self.keeper = keeper
        self._seconds = seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = self.keeper.begin()
        try:
            return (yield)
        finally:
            self.keeper.keep(fixturedef, before)

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        self.keeper.release(fixturedef)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        result = yield
        SANDBOX.rest()  # idle child processes that start again when they are used
        FORMS_SANDBOX.rest()
        left = self.keeper.left(seconds=self._seconds)
        if left:
            pytest.fail(f"{item.nodeid} left behind:\n{listed(left)}", pytrace=False)
        return result


def listed(left: dict[Leftover, str]) -> str:
    """One line for each."""
    return "\n".join(f"  {kind} {name}: {text}" for (kind, name), text in sorted(left.items()))


def install(config: pytest.Config, *, seconds: float = GRACE_SECONDS) -> Callable[[], None]:
    """Begin to watch this session; returns what ends it."""
    mark = secrets.token_hex(4)
    usual = tempfile.gettempdir()  # where pytest's own folders and what torch compiles stay
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", usual)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{usual}/torchinductor_{getpass.getuser()}")
    # What a session that was killed left is removed by the next one.
    runtime = RuntimeDirectory(Path(f"/tmp/mp-{os.getuid()}"))
    folder = runtime.__enter__().path
    # Python's own folder for sockets between processes: else it is removed when the session's folder is gone already.
    own = folder / "pymp-session"
    own.mkdir(mode=0o700)
    multiprocessing.process.current_process()._config["tempdir"] = str(own)  # type: ignore[attr-defined]
    before = os.environ.get("TMPDIR")
    os.environ[MARK], os.environ["TMPDIR"] = mark, str(folder)
    tempfile.tempdir = None
    config.pluginmanager.register(LeftoversPlugin(Keeper(Watch(mark, folder)), seconds=seconds), "leftovers")

    def end() -> None:
        os.environ.pop(MARK, None)
        if before is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None
        runtime.__exit__(None, None, None)

    return end


def _children() -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            found += map(int, Path(f"/proc/self/task/{task}/children").read_text().split())
    return found


def _is_left(name: str) -> bool:
    return not name.startswith(LASTING_FILES)


def _kind(path: Path) -> str:
    with contextlib.suppress(OSError):
        if path.is_socket():
            return "a socket file"
        if path.is_dir():
            inside = sorted(str(each.relative_to(path)) for each in path.rglob("*"))[:5]
            return f"a folder with {', '.join(inside) or 'nothing'}"
    return "a file"
