"""Work on strangers' bytes in child processes: each box is one stranger's, starts when it is used, and can be lost."""

from __future__ import annotations

import atexit
import signal
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic  # the real one also where a simulation replaces time.monotonic
from typing import Any

import msgpack

from shards.errors import CapacityExceeded, SandboxBreach, SandboxRefusal
from shards.sandbox import frames
from shards.sandbox.fork_server import ForkServer, ServerLost, Worker
from shards.sandbox.limits import Call, Limits
from shards.sandbox.quarantine import Quarantine

BUSY_MEMORY = 4 << 30
"""Bytes that all workers together may be allowed while they work; what needs more waits."""
IDLE_WORKERS = 16
IDLE_MEMORY = 2 << 30
"""Idle workers that are kept, and bytes that these may hold together: the longest unused ones end first."""
WAIT_SECONDS = 20.0


class _Held:
    """A box's worker, so that it can be let go when the box is collected."""

    worker: Worker | None = None

    def hang_up(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.close()


class Sandbox:
    """A fork server and the boxes that use it. Safe for several threads."""

    def __init__(self, module: str) -> None:
        self._server = ForkServer(module)
        self._lock = threading.Condition()
        self._busy = 0
        self._used: OrderedDict[int, tuple[weakref.ref[Box], int]] = OrderedDict()
        atexit.register(self._server.stop)

    def box(self, begin: Call) -> Box:
        """A box whose worker does `begin` first, each time one starts."""
        return Box(self, self._server, begin)

    def rest(self) -> None:
        """End every worker that is idle, and the server if none is left. They start again when they are used."""
        with self._lock:
            boxes = [box for reference, _ in self._used.values() if (box := reference()) is not None]
        busy = [box for box in boxes if not box.let_go()]
        if not busy:
            self._server.stop()

    @contextmanager
    def place(self, memory: int) -> Iterator[None]:
        """Room for a call that may take so much memory. Raises `CapacityExceeded` when there is none for long."""
        with self._lock:
            if not self._lock.wait_for(lambda: not self._busy or self._busy + memory <= BUSY_MEMORY, WAIT_SECONDS):
                raise CapacityExceeded("there is no room for another sandboxed call")
            self._busy += memory
        try:
            yield
        finally:
            with self._lock:
                self._busy -= memory
                self._lock.notify_all()

    def note(self, box: Box, memory: int | None) -> None:
        """A box has been used, and its worker holds so much memory (None: it has none)."""
        with self._lock:
            self._used.pop(id(box), None)
            if memory is not None:
                self._used[id(box)] = (weakref.ref(box), memory)
            self._used = OrderedDict((key, entry) for key, entry in self._used.items() if entry[0]() is not None)
            total = sum(entry[1] for entry in self._used.values())
            over: list[weakref.ref[Box]] = []
            for reference, held in [*self._used.values()][: -1 if memory is not None else None]:
                if len(self._used) - len(over) <= IDLE_WORKERS and total <= IDLE_MEMORY:
                    break
                over.append(reference)
                total -= held
        for reference in over:
            old = reference()
            if old is not None and old is not box:
                old.let_go()


class Box:
    """One stranger's work in a worker of its own; made by `Sandbox.box`. One call at a time, others wait."""

    def __init__(self, sandbox: Sandbox, server: ForkServer, begin: Call) -> None:
        self._sandbox = sandbox
        self._server = server
        self._begin = begin
        self._lock = threading.Lock()
        self._quarantine = Quarantine()
        self._held = _Held()
        weakref.finalize(self, self._held.hang_up)

    def begin(self) -> Any:
        """Start a worker now; what the first call answers. Raises as `call`."""
        return self._exclusive(None)

    def call(self, call: Call) -> Any:
        """The answer of a worker.

        Raises `SandboxRefusal` with its reason; `SandboxBreach` when it broke a limit or died, or has done so too
        often of late; `CapacityExceeded` when others' calls leave no room for this one.
        """
        return self._exclusive(call)

    def let_go(self) -> bool:
        """End the worker if it is idle; True when there is none now."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._held.worker is not None:
                self._server.end(self._held.worker)
                self._held.worker = None
                self._sandbox.note(self, None)
            return True
        finally:
            self._lock.release()

    def _exclusive(self, call: Call | None) -> Any:
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise CapacityExceeded("too many calls wait for this model's text to be read")
        try:
            left = self._quarantine.seconds_left(monotonic())
            if left:
                raise SandboxBreach(f"it broke its limits too often and is set aside for {left:.0f} s", left)
            try:
                return self._attempt(call)
            except ServerLost:  # someone ended it, or the machine ran out of memory: not this box's doing
                try:
                    return self._attempt(call)
                except ServerLost as error:
                    raise SandboxBreach(str(error)) from error
        finally:
            self._lock.release()

    def _attempt(self, call: Call | None) -> Any:
        answer = None
        if self._held.worker is None or call is None:
            self._drop()
            self._held.worker = self._server.fork()
            try:
                answer = self._exchange(self._held.worker, self._begin)
            except SandboxRefusal:
                self._drop()
                raise
        return answer if call is None else self._exchange(self._held.worker, call)

    def _exchange(self, worker: Worker, call: Call) -> Any:
        limits = call.limits
        memory = limits.memory + (0 if call is self._begin else self._begin.limits.memory)
        try:
            request = msgpack.packb([call.operation, call.arguments, limits.seconds, memory])
        except (ValueError, TypeError, OverflowError) as error:
            raise SandboxRefusal(f"what it is given cannot be passed on: {error}") from error
        with self._sandbox.place(limits.memory):
            deadline = monotonic() + limits.wall_seconds
            try:
                frames.send(worker.channel, request, deadline)
                data = frames.receive(worker.channel, limits.answer, deadline)
                answer = None if data is None else msgpack.unpackb(data)
            except TimeoutError:
                raise self._broke(limits, f"it took more than {limits.wall_seconds:.0f} s") from None
            except frames.FrameError as error:
                raise self._broke(limits, f"its answer is too large or broken: {error}") from error
            except (ValueError, msgpack.UnpackException) as error:
                raise self._broke(limits, "its answer is garbled") from error
            except OSError:
                answer = None
        match answer:
            case ["ok", result, int(used)]:
                self._sandbox.note(self, used)
                return result
            case ["error", bytes(text)]:
                raise SandboxRefusal(text.decode("utf-8", "replace"))
            case ["memory"]:
                raise self._broke(limits, f"it needs more than {memory >> 20} MiB of memory")
        raise self._broke(limits, None)

    def _broke(self, limits: Limits, reason: str | None) -> SandboxBreach:
        """End the worker and count the breach."""
        status = self._drop()
        if reason is None:
            if status is None:
                raise ServerLost("the fork server was lost")
            reason = _reason(status, limits)
        if limits.blame:
            self._quarantine.strike(monotonic())
        return SandboxBreach(reason)

    def _drop(self) -> int | None:
        worker, self._held.worker = self._held.worker, None
        if worker is None:
            return None
        self._sandbox.note(self, None)
        return self._server.end(worker)


def _reason(status: int, limits: Limits) -> str:
    match -status:
        case signal.SIGXCPU:
            return f"it took more than {limits.seconds:.0f} s of processor time"
        case signal.SIGABRT | signal.SIGKILL | signal.SIGSEGV | signal.SIGBUS:
            return "it ran out of memory or crashed"
    return "it failed in a way that was not foreseen"
