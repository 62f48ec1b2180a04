"""Child `mesh` processes that tell us what they do as JSON lines, and that cannot outlive us."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from mesh.cli.environment import for_children
from mesh.cli.fork_server import CHAIN_COMMANDS, ForkServer, can_fork, modules_of
from mesh.errors import ConfigError, MeshError
from mesh.transport.guard import guarded

STOP_SECONDS = 10.0
LAST_WORDS_SECONDS = 2.0
KEPT_LOG_LINES = 200


Hear = Callable[[dict[str, Any]], None]
"""Is told an event of a child, as it comes."""
HearLog = Callable[[str], None]
"""Is told a line of a child's stderr."""


class Process(Protocol):
    """A running process: one of `asyncio.subprocess`, or one that was forked."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stdout(self) -> asyncio.StreamReader | None: ...
    @property
    def stderr(self) -> asyncio.StreamReader | None: ...
    async def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Child:
    """One running child: its events (from stdout) and the end of its log (from stderr).

    With `hear` its events are told instead of kept: for children that run for long.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        hear: Hear | None = None,
        hear_log: HearLog | None = None,
    ) -> None:
        self.name = name
        self.process = process
        self._hear = hear
        self._hear_log = hear_log
        self.log: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()
        self._ended = False
        self.readers: list[asyncio.Task[None]] = []

    async def wait_for(self, event: str, timeout: float) -> dict[str, Any]:
        """The first event of that name. Raises `MeshError` with the child's last words if it ends before."""
        return await self.wait_until(
            lambda: next((seen for seen in self.events if seen["event"] == event), None), f"say {event!r}", timeout
        )

    async def wait_until(self, find: Callable[[], dict[str, Any] | None], what: str, timeout: float) -> dict[str, Any]:
        """What `find` finds among its events. Raises as `wait_for`; `what` says what it should have done."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._ended or find() is not None)
        except TimeoutError:
            raise MeshError(f"{self.name} did not {what} within {timeout:g} s\n{self.last_words}") from None
        found = find()
        if found is None:
            raise MeshError(f"{self.name} ended early:\n{self.last_words}")
        return found

    @property
    def last_words(self) -> str:
        return "\n".join(list(self.log)[-12:])

    async def read_events(self) -> None:
        """Collect JSON lines until the child closes its stdout."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and "event" in value:
                    await self._take(value)
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def _take(self, event: dict[str, Any]) -> None:
        if self._hear is not None:
            self._hear(event)
            return
        async with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    async def read_log(self) -> None:
        """Keep the end of the child's stderr."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip()
            self.log.append(text)
            if self._hear_log is not None:
                self._hear_log(text)


class Children:
    """Starts children and ends them all: `async with Children() as children:`."""

    def __init__(self) -> None:
        self.all: list[Child] = []
        self._readers: set[asyncio.Task[None]] = set()
        self._server = ForkServer()

    def prepare(self, *arguments: str) -> None:
        """Load what `mesh ARGUMENTS` will need, while we do something else."""
        if (modules := modules_of(arguments)) is not None:
            self._server.prepare(modules)

    async def start(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        hear: Hear | None = None,
        hear_log: HearLog | None = None,
    ) -> Child:
        """Run `mesh ARGUMENTS`. It gets SIGKILL from the kernel if we die without a word (Linux).

        `environment` is added to ours without its secrets; for `hear` and `hear_log` see `Child`.
        """
        try:
            if (modules := modules_of(arguments)) is not None:
                process: Process = await self._server.fork(arguments, for_children(environment), modules)
            else:
                process = await _start(arguments, for_children(environment))
        except OSError as error:
            raise ConfigError(f"cannot start {name}: {error}") from error
        return self.adopt(name, process, hear, hear_log)

    async def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float
    ) -> tuple[int, str, str]:
        """Run `mesh ARGUMENTS` to its end; its exit code, and what it said on stdout and stderr.

        Raises `MeshError` where it is not done in time.
        """
        given = for_children(environment)
        if can_fork():
            process: Process = await self._server.fork(arguments, given, modules_of(arguments) or CHAIN_COMMANDS)
        else:
            process = await _start(arguments, given)
        assert process.stdout is not None and process.stderr is not None
        try:
            async with asyncio.timeout(timeout):
                said = await asyncio.gather(process.stdout.read(), process.stderr.read())
                code = await process.wait()
        except TimeoutError:
            raise MeshError(f"`mesh {arguments[0]}` did not end within {timeout:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        out, err = (each.decode(errors="replace").strip() for each in said)
        return code, out, err

    def adopt(
        self,
        name: str,
        process: Process,
        hear: Hear | None = None,
        hear_log: HearLog | None = None,
    ) -> Child:
        """Look after a process that is running already, with pipes for stdout and stderr."""
        child = Child(name, process, hear, hear_log)
        self.all.append(child)
        for work in (child.read_events(), child.read_log()):
            task = asyncio.create_task(work)
            child.readers.append(task)
            self._readers.add(task)
            task.add_done_callback(self._readers.discard)
        return child

    async def ended(self, child: Child) -> int:
        """Wait for its end, and forget it; its exit code, negative for the signal that killed it."""
        code = await child.process.wait()
        # What it said last may still be in the pipes; a grandchild that holds them is not waited for long.
        await asyncio.wait(child.readers, timeout=LAST_WORDS_SECONDS)
        self.all.remove(child)
        return code

    async def stop(self) -> None:
        """SIGTERM for every child, newest first, and SIGKILL for one that does not end in time."""
        for child in reversed(self.all):
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(child.process.wait() for child in self.all))
        except TimeoutError:
            for child in self.all:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
            await asyncio.gather(*(child.process.wait() for child in self.all))
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._server.close()


async def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "mesh", *arguments]
    return await asyncio.create_subprocess_exec(
        *(guarded(command) if sys.platform == "linux" else command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; we end the children in order
        env=environment,
    )


@contextlib.asynccontextmanager
async def children() -> AsyncIterator[Children]:
    """Children that are stopped when the block is left, whatever happens."""
    family = Children()
    try:
        yield family
    finally:
        await asyncio.shield(family.stop())
