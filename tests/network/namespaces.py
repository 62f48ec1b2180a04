"""Named network namespaces, the links between them, and processes inside them; nothing of it outlives the tests.

    with Namespaces() as net:
        lan, home = net.bridge("lan"), net.make("home")
        net.plug(home, lan, "11.0.0.2/16")
        print(home.run("ip", "-brief", "address").stdout)

Names carry our process id. What a killed run has left behind (its id is nobody's any more) goes with the next run.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from tests.network.enter import FOLDER, set_namespace

REQUIRED = "MESH_REQUIRE_NETNS"
"""Set to 1 where the tests are to fail rather than to be skipped without namespaces (CI)."""
PREFIX = "mt"
TUN = Path("/dev/net/tun")
COMMAND_SECONDS = 20.0
GONE_SECONDS = 5.0

Done = subprocess.CompletedProcess[str]
T = TypeVar("T")
_ENTER = Path(__file__).with_name("enter.py")
_NAME = re.compile(rf"{PREFIX}(\d+)-[\w-]+")
_numbers = itertools.count()


class _Starter:
    """The thread that starts processes: the parent-death signal comes when the thread that started a process ends, so
    it lives until the last namespace is gone, and whatever ran in one with it."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._users = 0
        self._thread: ThreadPoolExecutor | None = None

    def enter(self) -> None:
        with self._changing:
            self._users += 1

    def leave(self) -> None:
        with self._changing:
            self._users -= 1
            if not self._users and self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def run(self, start: Callable[[], T]) -> T:
        with self._changing:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="namespaces")
            thread = self._thread
        return thread.submit(start).result()


_starter = _Starter()


def command(*arguments: str) -> str:
    """Run a command in our own namespace; its output. Raises `RuntimeError` with what it said."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def ip(*arguments: str) -> str:
    """`ip ARGUMENTS` in our own namespace. Raises `RuntimeError`."""
    return command("ip", *arguments)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One host. Made by `Namespaces`."""

    name: str
    """As `ip netns` knows it."""
    label: str
    """As the test knows it."""

    @property
    def path(self) -> Path:
        return Path(FOLDER) / self.name

    def ip(self, *arguments: str) -> str:
        """`ip ARGUMENTS` inside. Raises `RuntimeError`."""
        return ip("-n", self.name, *arguments)

    def wrapped(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `arguments` inside and dies with us; start it by `popen`, or on a thread that stays."""
        return [sys.executable, "-I", "-S", str(_ENTER), self.name, str(os.getpid()), *arguments]

    def popen(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process inside; the kernel kills it when we end. Options as `subprocess.Popen`."""
        return start_here(lambda: subprocess.Popen(self.wrapped(arguments), **options))

    def run(self, *arguments: str, seconds: float = COMMAND_SECONDS, **options: Any) -> Done:
        """Run a command inside to its end. Raises `RuntimeError` with what it said when it fails."""

        def execute() -> Done:
            return subprocess.run(
                self.wrapped(arguments), capture_output=True, text=True, timeout=seconds, check=False, **options
            )

        done = start_here(execute)
        if done.returncode != 0:
            raise RuntimeError(f"in {self.label}: {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
        return done

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move the calling thread inside for the block: sockets opened there belong to the namespace for ever."""
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        before = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
        set_namespace(str(self.path))
        try:
            yield
        finally:
            set_namespace(f"/proc/self/fd/{before}")
            os.close(before)

    def pids(self) -> list[int]:
        """Processes inside."""
        return [int(word) for word in ip("netns", "pids", self.name).split()]


class Namespaces:
    """Makes namespaces; leaving the block kills what runs in them and removes them. Use as a context manager."""

    def __init__(self) -> None:
        self._all: list[Namespace] = []
        self._links = itertools.count()

    def __enter__(self) -> Self:
        sweep()
        _starter.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._all:
                remove(self._all.pop().name)
        finally:
            _starter.leave()

    def make(self, label: str) -> Namespace:
        """A host of its own: loopback is up, there is nothing else."""
        made = Namespace(f"{PREFIX}{os.getpid()}-{next(_numbers)}-{label}", label)
        ip("netns", "add", made.name)
        self._all.append(made)
        made.ip("link", "set", "lo", "up")
        return made

    def link(
        self, one: Namespace, other: Namespace, one_address: str, other_address: str, *, mtu: int = 1500
    ) -> tuple[str, str]:
        """A cable (veth) between two hosts; addresses as in `10.0.0.1/24`. The names of its ends."""
        number = next(self._links)
        ends = f"v{number}a", f"v{number}b"
        ip(*f"-n {one.name} link add {ends[0]} mtu {mtu} type veth peer name {ends[1]} netns {other.name}".split())
        other.ip("link", "set", ends[1], "mtu", str(mtu))
        for host, end, address in ((one, ends[0], one_address), (other, ends[1], other_address)):
            host.ip("address", "add", address, "dev", end)
            host.ip("link", "set", end, "up")
        return ends

    def bridge(self, label: str, address: str | None = None) -> Namespace:
        """A switch: a namespace with a bridge `br0`, to which `plug` connects hosts; it may have an address itself."""
        made = self.make(label)
        made.ip("link", "add", "br0", "type", "bridge")
        if address is not None:
            made.ip("address", "add", address, "dev", "br0")
        made.ip("link", "set", "br0", "up")
        return made

    def plug(self, host: Namespace, switch: Namespace, address: str, *, gateway: str | None = None) -> str:
        """Connect a host to a bridge under an address, as in `11.0.0.2/16`; the name of the host's interface."""
        number = next(self._links)
        near, far = f"v{number}a", f"v{number}b"
        ip(*f"-n {host.name} link add {near} type veth peer name {far} netns {switch.name}".split())
        switch.ip("link", "set", far, "master", "br0", "up")
        host.ip("address", "add", address, "dev", near)
        host.ip("link", "set", near, "up")
        if gateway is not None:
            host.ip("route", "add", "default", "via", gateway)
        return near

    def forward(self, router: Namespace) -> None:
        """Let a host pass packets on between its interfaces."""
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def start_here(start: Callable[[], T]) -> T:
    """Run `start` on the thread that lives as long as any `Namespaces`, and return what it returns."""
    return _starter.run(start)


def remove(name: str) -> None:
    """Kill what runs in a namespace and delete it; nothing happens where there is none."""
    deadline = time.monotonic() + GONE_SECONDS
    while (Path(FOLDER) / name).exists():
        with contextlib.suppress(RuntimeError):
            pids = [int(word) for word in ip("netns", "pids", name).split()]
            for pid in set(pids) - {os.getpid()}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids or time.monotonic() > deadline:
                ip("netns", "delete", name)
                return
        if time.monotonic() > deadline + GONE_SECONDS:
            raise RuntimeError(f"namespace {name} cannot be removed")
        time.sleep(0.02)


def sweep() -> list[str]:
    """Remove the namespaces of test runs that are gone; their names."""
    swept = []
    for path in Path(FOLDER).glob(f"{PREFIX}*"):
        match = _NAME.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            remove(path.name)
            swept.append(path.name)
    return swept


@functools.cache
def problem(*, tun: bool = False) -> str | None:
    """Why namespaces (and TUN devices) cannot be used here, found by trying; None where they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "there is no `ip` command (package iproute2)"
    try:
        with Namespaces() as net:
            one, other = net.make("try"), net.make("try2")
            net.link(one, other, "10.0.0.1/30", "10.0.0.2/30")
            one.run("true")
            if tun:
                one.ip("tuntap", "add", "t0", "mode", "tun")
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces here: {error}"
    return None


def require(*, tun: bool = False, commands: Sequence[str] = ()) -> None:
    """Skip the test where namespaces, TUN devices or a command are missing; fail where `MESH_REQUIRE_NETNS=1`."""
    missing = [name for name in commands if shutil.which(name) is None]
    reason = f"no command {', '.join(missing)}" if missing else problem(tun=tun)
    if reason is None:
        return
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)
