"""An event loop in virtual time, and the simulated machines whose code runs on it.

Time stands still while anything is ready to run and jumps to the next timer when nothing is, so hours pass in seconds
and nothing depends on how fast this computer is. Every callback belongs to the machine in whose context it was
scheduled: a machine can be put to sleep (its callbacks wait), and killed (its threads' work is lost).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

MACHINE: ContextVar[Machine | None] = ContextVar("machine", default=None)
"""Whose code is running; None for the simulator's own."""

NOBODY = Context()
"""For callbacks that belong to no machine: the network, the faults."""

CANCELLED_TIMERS = 256


class Deadlock(Exception):
    """Nothing is ready and no timer is set: whoever waits will wait for ever."""


class SimTask(asyncio.Task):  # type: ignore[type-arg]
    """A task whose hash is a number, so that a set of tasks has the same order in every run."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.number = next(SimTask.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in a fixed order, in time that is only counted. `failures` are what nobody handled."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.failures: list[str] = []
        self.asleep: set[Machine] = set()
        SimTask.numbers = itertools.count()
        self.set_task_factory(_task)  # type: ignore[arg-type]
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now

    def at(self, when: float, call: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call in nobody's name."""
        return self.call_at(when, call, *args, context=NOBODY)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(f"{context.get('message')}: {error!r}")

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if self._timer_cancelled_count > CANCELLED_TIMERS and 2 * self._timer_cancelled_count > len(scheduled):  # type: ignore[attr-defined]
            scheduled = self._scheduled = [handle for handle in scheduled if not handle._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise Deadlock("nothing will ever happen again")
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if self.asleep:
                machine = handle._context.get(MACHINE)
                if machine is not None and machine in self.asleep:
                    machine.deferred.append(handle)
                    continue
            handle._run()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """A thread's work: it happens at one moment a little later, all of it or nothing of it."""
        future = self.create_future()
        machine = MACHINE.get()
        if machine is None:
            self.call_soon(_finish, future, func, args)
        else:
            machine.submit(_Job(future, func, args), executor)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _task(loop: VirtualLoop, coro: Coroutine[Any, Any, Any], context: Context | None = None) -> SimTask:
    task = SimTask(coro, loop=loop, context=context)
    machine = context.get(MACHINE) if context is not None else MACHINE.get()
    if machine is not None:
        machine.tasks[task] = None
        task.add_done_callback(machine.forget, context=NOBODY)
    return task


class _Job:
    __slots__ = ("args", "func", "future", "handle")

    def __init__(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.future, self.func, self.args = future, func, args
        self.handle: asyncio.TimerHandle | None = None


def _finish(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = func(*args)
    except Exception as error:  # noqa: BLE001  whatever it raises belongs to whoever waits for it
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class Clock:
    """A machine's wall clock: how far it is off (seconds), and how fast it runs."""

    def __init__(self, offset: float = 0.0, rate: float = 1.0) -> None:
        self.offset = offset
        self.rate = rate

    def read(self, now: float) -> float:
        return now * self.rate + self.offset


class Machine:
    """One life of one process, from its start to its end; what it keeps on disk is not part of it."""

    def __init__(self, name: str, loop: VirtualLoop, random: Random, clock: Clock) -> None:
        self.name = name
        self.loop = loop
        self.clock = clock
        self.alive = True
        self.boot = random.uniform(10.0, 1e6)
        """What its monotonic clock was at the beginning."""
        self.disk_seconds = random.choice((0.0005, 0.005, 0.03))
        self.slowness = 1.0
        self.observe: Callable[[Any], None] = lambda outcomes: None
        """Sees what its engine has computed."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.deferred: list[asyncio.Handle] = []
        self._random = random
        self._jobs: dict[_Job, None] = {}
        self._queues: dict[Any, float] = {}
        """Until when each executor of one thread is busy."""
        self._busy = 0.0
        self._context = NOBODY.copy()
        self._context.run(MACHINE.set, self)

    @property
    def is_asleep(self) -> bool:
        return self in self.loop.asleep

    def call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call in this machine's name."""
        return self._context.copy().run(call, *args)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
        """Start a task of this machine."""
        return self.loop.create_task(work, name=name, context=self._context.copy())

    def forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def sleep(self) -> None:
        """The process stops: nothing of it runs until `wake`."""
        if self.alive:
            self.loop.asleep.add(self)

    def wake(self) -> None:
        self.loop.asleep.discard(self)
        self.loop._ready.extend(self.deferred)  # type: ignore[attr-defined]
        self.deferred.clear()

    def work(self, seconds: float) -> None:
        """Said by a thread's work: it takes this long."""
        self._busy += seconds

    def submit(self, job: _Job, executor: Any) -> None:
        """Run a thread's work after a moment; what goes to an executor of its own happens in order."""
        self._jobs[job] = None
        seconds = self.disk_seconds * self._random.uniform(0.5, 2.0) * self.slowness
        when = self.loop.time() + seconds
        if executor is not None:
            when = self._queues[executor] = max(when, self._queues.get(executor, 0.0) + 1e-6)
        job.handle = self.loop.call_at(when, self._run, job)

    def _run(self, job: _Job) -> None:
        del self._jobs[job]
        if not self.alive:
            job.future.cancel()
            return
        self._busy = 0.0
        result = self.loop.create_future()
        _finish(result, job.func, job.args)
        if self._busy:
            self.loop.call_later(self._busy, _pass_on, result, job.future)
        else:
            _pass_on(result, job.future)

    def kill(self, random: Random) -> None:
        """End at once. What its threads had begun is done altogether or not at all; nobody hears of the result.

        Its tasks end as ghosts: they are cancelled, and nothing that they do has an effect any more.
        """
        for job in list(self._jobs):
            if random.random() < 0.5:
                _finish(self.loop.create_future(), job.func, job.args)
        self.end()

    def end(self) -> None:
        """Nothing that it still does has an effect."""
        self.alive = False
        self.wake()
        for job in self._jobs:
            if job.handle is not None:
                job.handle.cancel()
            job.future.cancel()
        self._jobs.clear()
        for task in list(self.tasks):
            task.cancel()


def _pass_on(result: asyncio.Future[Any], future: asyncio.Future[Any]) -> None:
    if future.done():
        result.exception()
        return
    error = result.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result.result())


def run_on(loop: VirtualLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run a simulation to its end, and close its loop."""

    def work() -> None:
        loop.run_until_complete(main)
        loop.run_until_complete(loop.shutdown_asyncgens())

    try:
        copy_context().run(work)
    finally:
        loop.close()
