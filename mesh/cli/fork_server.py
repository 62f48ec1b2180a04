"""Commands that start in milliseconds: forked from a process that has loaded what they need (Linux).

What a provider imports takes seconds of a processor, and a node of several stages, or the demo, starts several of them.
They fork from one process that imports it once, and share its memory. They are processes of their own in every other
respect: environment, session, standard streams, signals, exit status. The server ends with the process that uses it,
and what was forked from it ends with the server.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from mesh.cli.environment import for_children, forked_for
from mesh.transport import _hivemind, guard

NODE: Final = ("mesh.cli.main", "mesh.node")
LOADED: Final = {
    "join": (*NODE, "mesh.provider.join"),
    "gateway": (*NODE, "mesh.gateway.app", "mesh.gateway.serve"),
}
"""What a command is forked with; one that is not here is not forked."""
PAYING: Final = ("chain.client.staking", "chain.client.provider", "eth_keyfile", "mesh.cli.paying")
"""What it needs as well where there is a chain."""
CHAIN_COMMANDS: Final = ("mesh.cli.main", *PAYING)
"""What short commands about money are forked with."""

_HEADER = 8  # bytes of a request's length


class ForkedProcess:
    """A running command: what `asyncio.subprocess.Process` has, as far as we need it."""

    def __init__(
        self,
        pid: int,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
        status: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)
        self._end = asyncio.create_task(self._ended(*status))

    async def _ended(self, status: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        try:
            said = await status.readline()
        finally:
            writer.close()
            os.close(self._pidfd)
        # Without a word: the server has died, and its children with it.
        self.returncode = int(said) if said else -signal.SIGKILL
        return self.returncode

    async def wait(self) -> int:
        """Its exit code, negative for the signal that killed it."""
        return await asyncio.shield(self._end)

    def terminate(self) -> None:
        """SIGTERM. Raises `ProcessLookupError` when it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL. Raises `ProcessLookupError` when it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, number)


def can_fork() -> bool:
    """Whether this platform has what that takes."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def modules_of(arguments: Sequence[str]) -> tuple[str, ...] | None:
    """What to load before `mesh ARGUMENTS` is forked; None: it should be started in the usual way."""
    if not can_fork() or not arguments or arguments[0] not in LOADED:
        return None
    return LOADED[arguments[0]] + (PAYING if "--wallet" in arguments or "--rpc" in arguments else ())


@dataclass(frozen=True, slots=True)
class _Request:
    """Modules to load, and a command to fork afterwards, if there is one."""

    modules: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    folder: str = ""


def _encoded(request: _Request) -> bytes:
    values = [request.modules, request.arguments, request.environment, request.folder]
    data = json.dumps(values, ensure_ascii=True).encode()  # names of files need not be text: surrogates are kept
    return len(data).to_bytes(_HEADER, "big") + data


class ForkServer:
    """The process that we fork from; started when it is first needed, and again should it have died. Ends with `close`.

    To be used by the thread that starts it and lives as long as what is forked: the kernel ends both with it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pipes: list[asyncio.ReadTransport] = []

    def prepare(self, modules: Sequence[str]) -> None:
        """Load these, while we do something else."""
        with self._ask() as sock:
            sock.sendall(_encoded(_Request(tuple(modules))))

    async def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], modules: Sequence[str]
    ) -> ForkedProcess:
        """Run `mesh ARGUMENTS` with this environment and none else. Raises `OSError` where that cannot be."""
        readers, writers = zip(os.pipe(), os.pipe(), strict=True)
        try:
            sock = self._ask(*writers)
        except BaseException:
            for fd in readers:
                os.close(fd)
            raise
        finally:
            for fd in writers:
                os.close(fd)
        stdout, stderr = [await self._reader(fd) for fd in readers]
        status, writer = await asyncio.open_unix_connection(sock=sock)
        folder = os.getcwd()  # noqa: PTH109
        writer.write(_encoded(_Request(tuple(modules), tuple(arguments), dict(environment), folder)))
        try:
            said = await status.readline()
        except BaseException:
            writer.close()
            raise
        if not said:
            writer.close()
            raise OSError(f"the process that `mesh {arguments[0]}` is forked from has ended")
        return ForkedProcess(int(said), stdout, stderr, (status, writer))

    async def _reader(self, fd: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
        )
        self._pipes = [*(each for each in self._pipes if not each.is_closing()), pipe]
        return reader

    def _ask(self, *fds: int) -> socket.socket:
        """A connection for one request; the server gets these descriptors with it. Raises `OSError`."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"?"], [theirs.fileno(), *fds])
            except BaseException:
                ours.close()
                raise
        return ours

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                guard.guarded([sys.executable, "-m", __name__, str(theirs.fileno())]),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C and hangups are for us
                env=for_children(),
            )

    def close(self) -> None:
        """End it, and whatever still runs of what was forked."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()  # it may be loading still
            self._process.wait()
            self._process = None
        for pipe in self._pipes:
            pipe.close()  # somebody else may hold its other end
        self._pipes.clear()


@dataclass(slots=True)
class _Serving:
    """The server's side: what it has forked, until it is itself what was forked."""

    control: socket.socket
    selector: selectors.BaseSelector
    children: dict[int, tuple[int, socket.socket]]
    """By the descriptor that tells its end: the child's process id, and who is told of it."""

    @classmethod
    def on(cls, control: socket.socket) -> Self:
        serving = cls(control, selectors.DefaultSelector(), {})
        serving.selector.register(control, selectors.EVENT_READ)
        return serving

    def run(self) -> _Request | None:
        """Serve; returns what to run in each child, and None in the server once it is not needed any more."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is not self.control:
                    self._reap(key.fd)
                    continue
                data, fds, _, _ = socket.recv_fds(self.control, 1, 3)
                if not data:
                    return None
                if (request := self._take(fds)) is not None:
                    return request

    def _take(self, fds: list[int]) -> _Request | None:
        """Load, and fork if that is asked for; returns the request in the child only."""
        conn, streams = socket.socket(fileno=fds[0]), fds[1:]
        request = _read(conn)
        if request is not None:
            for name in request.modules:
                importlib.import_module(name)
            _hivemind.load()
        if request is None or not request.arguments:
            conn.close()
            for fd in streams:
                os.close(fd)
            return None
        gc.freeze()  # what is shared stays shared: no collection of a child writes to it
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(server, streams)
            conn.sendall(b"%d\n" % os.getpid())
            self._leave(conn)
            return request
        for fd in streams:
            os.close(fd)
        end = os.pidfd_open(pid)
        self.children[end] = pid, conn
        self.selector.register(end, selectors.EVENT_READ)
        return None

    def _reap(self, end: int) -> None:
        pid, conn = self.children.pop(end)
        self.selector.unregister(end)
        os.close(end)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with conn:
            try:
                conn.sendall(b"%d\n" % code)
            except OSError:
                pass  # nobody wants to know

    def _leave(self, conn: socket.socket) -> None:
        """A child has nothing of the server's."""
        conn.close()
        self.control.close()
        self.selector.close()
        for end, (_, other) in self.children.items():
            os.close(end)
            other.close()


def _read(conn: socket.socket) -> _Request | None:
    """What comes on a connection; None when it ended before."""
    with conn.makefile("rb") as file:
        length = file.read(_HEADER)
        data = file.read(int.from_bytes(length, "big"))
    if not data:
        return None
    modules, arguments, environment, folder = json.loads(data)
    return _Request(tuple(modules), tuple(arguments), environment, folder)


def _become(server: int, streams: Sequence[int]) -> None:
    """What `exec` would have done for a new process."""
    guard.die_with(server)
    os.setsid()
    for number, fd in enumerate(streams, start=1):
        os.dup2(fd, number)
        os.close(fd)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else all children draw the same numbers; `random` sees to it itself


def _main() -> None:
    control, asker = socket.socket(fileno=int(sys.argv[1])), os.getppid()
    request = _Serving.on(control).run()
    if request is None:
        return
    forked_for(asker)
    os.environ.clear()
    os.environ.update(request.environment or {})
    os.chdir(request.folder)
    sys.argv = ["mesh", *request.arguments]
    sys.modules["__main__"].__package__ = None  # so that `--help` calls it `mesh`
    importlib.import_module("mesh.cli.console").fit(os.environ.get("COLUMNS"))
    main: Any = importlib.import_module("mesh.cli.main").main
    main()


if __name__ == "__main__":
    _main()
