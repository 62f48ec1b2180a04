"""Processes that start in milliseconds: forked from one that has torch, hivemind and the mesh loaded already.

Hundreds of tests start `mesh` commands; to import what these need takes six seconds of a processor each time. They are
processes of their own in every other respect: environment, session, standard streams, signals, exit status.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from typing import Any
from unittest.mock import patch

from mesh.transport import guard

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm_modules"])  # there is one list for a whole process: the last that is set

FIXED = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
"""What libraries read as they are loaded, so that it cannot be another value in the process that starts."""
NAME = "mesh-"
"""How the kernel calls a process that was started warm (`/proc/PID/comm`), followed by a mark of ten characters."""

_PR_SET_NAME = 15  # <linux/prctl.h>
_starting = threading.Lock()


def _network() -> str:
    """Which network the calling thread is in."""
    return os.readlink("/proc/thread-self/ns/net") if sys.platform == "linux" else ""  # noqa: PTH115


_HOME = _network()
"""Where the process that they are forked from is."""


def name(mark: str) -> bytes:
    """How the kernel calls the processes with this mark."""
    return f"{NAME}{mark}"[:15].encode()


def can_start(environment: dict[str, str]) -> bool:
    """Whether `mesh` may be started warm with this environment, by the calling thread (on Linux)."""
    as_it_is = all(environment.get(name) == value for name, value in FIXED.items())
    return sys.platform == "linux" and as_it_is and _network() == _HOME


class WarmProcess:
    """`mesh ARGUMENTS` with standard streams in pipes; what `subprocess.Popen` has of methods, as far as tests need."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], mark: str, *, stdin: bool) -> None:
        """`mark` (up to ten characters) is by what the process can be found."""
        ours: list[int] = []
        theirs: list[int] = []
        for writes in (True, False, False):
            reader, writer = os.pipe()
            ours.append(writer if writes else reader)
            theirs.append(reader if writes else writer)
        with _starting:
            with patch.dict(os.environ, FIXED):
                forkserver.ensure_running()
            self._process = CONTEXT.Process(target=_run, args=(_Fds(theirs), list(arguments), environment, mark))
            self._process.start()
        for fd in theirs:
            os.close(fd)
        self.stdin = os.fdopen(ours[0], "wb")
        self.stdout, self.stderr = (os.fdopen(fd, "rb") for fd in ours[1:])
        if not stdin:
            self.stdin.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("mesh", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Fds:
    """Descriptors that go to the new process with its arguments."""

    def __init__(self, fds: Sequence[int]) -> None:
        self.fds = fds

    def __reduce__(self) -> Any:
        return _received, tuple(DupFd(fd) for fd in self.fds)


def _received(*duplicates: Any) -> list[int]:
    return [duplicate.detach() for duplicate in duplicates]


def _run(fds: list[int], arguments: list[str], environment: dict[str, str], mark: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name(mark), 0, 0, 0)
    guard.die_with(os.getppid())
    os.setsid()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "w"), write_through=True) for fd in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["mesh", *arguments]
    from mesh.cli.main import main

    main()
