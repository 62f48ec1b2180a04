"""The stages of one node, each in a process of its own: started, started again when one fails, and ended together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mesh.cli.processes import Child, Children
from mesh.errors import MeshError
from mesh.provider.planner.stages import failures_in_a_row, pause_before_restart

JOIN_SECONDS = 300.0
"""How long a stage may take to join before the next one starts without waiting for it."""
MAX_SIBLINGS = 4
"""Addresses of other stages that a stage is given to join through."""


@dataclass(slots=True)
class _Running:
    """One stage's process, and what it said of itself."""

    label: str
    child: Child | None = None
    address: str | None = None
    """Where others join through it; None while it is not there."""
    span: str | None = None
    """The blocks that it chose last."""
    has_joined: bool = False
    """At least once: so it is not a mistake in the command if it fails."""
    joined: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps every stage running until it is asked to leave.

    `arguments` gives a stage's command by its label, the addresses to join through and the blocks that it served last;
    `tell` hears a stage's events and `log` its stderr, line by line. With `one_by_one` a stage starts when the one
    before has joined: those that register with one account must not do so at once. `environment` gives what is added
    to a stage's environment by its label, `noun` is what goes before a label where one fails. With `may_leave` one
    that ends well has been asked to by somebody else, and is not started again.
    """

    def __init__(
        self,
        family: Children,
        labels: Sequence[str],
        arguments: Callable[[str, Sequence[str], str | None], Sequence[str]],
        tell: Callable[[str, dict[str, Any]], None],
        log: Callable[[str, str], None],
        *,
        peers: Sequence[str] = (),
        one_by_one: bool = False,
        environment: Callable[[str], Mapping[str, str]] | None = None,
        noun: str = "stage ",
        may_leave: bool = False,
    ) -> None:
        self._family = family
        self._arguments = arguments
        self._tell = tell
        self._log = log
        self._peers = tuple(peers)
        self._one_by_one = one_by_one
        self._environment = environment
        self._noun = noun
        self._may_leave = may_leave
        self._stages = [_Running(label) for label in labels]
        self._leaving = asyncio.Event()
        self._starting = asyncio.Lock()

    def ask(self) -> bool:
        """Let every stage leave as its sessions end. False when it was asked before: whoever wants an end cancels."""
        if self._leaving.is_set():
            return False
        self._leaving.set()
        for stage in self._stages:
            _terminate(stage.child)
        return True

    async def run(self) -> None:
        """Until all have left. Raises `MeshError` with its last words when a stage ends that has never joined."""
        async with asyncio.TaskGroup() as tasks:
            for stage in self._stages:
                tasks.create_task(self._keep(stage))

    async def _keep(self, stage: _Running) -> None:
        failures = 0
        clock = asyncio.get_running_loop().time
        while not self._leaving.is_set():
            began = clock()
            child = await self._start(stage)
            if child is None:
                return
            code = await self._family.ended(child)
            stage.child = stage.address = None
            stage.joined.clear()
            if self._leaving.is_set():
                return
            reason = why_it_ended(child, code)
            if not stage.has_joined:
                raise MeshError(f"{self._noun}{stage.label}: {reason}")
            if self._may_leave and code == 0:
                self._tell(stage.label, {"event": "stage_ended", "reason": "it was asked to leave", "restart_in": None})
                return
            failures = failures_in_a_row(failures, clock() - began)
            pause = pause_before_restart(failures)
            self._tell(stage.label, {"event": "stage_ended", "reason": reason, "restart_in": pause})
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._leaving.wait()

    async def _start(self, stage: _Running) -> Child | None:
        """None when we are leaving. One after the other, where there is nobody yet to join through."""
        async with self._starting:
            siblings = [other.address for other in self._stages if other is not stage and other.address is not None]
            peers = [*self._peers, *siblings[:MAX_SIBLINGS]]
            if self._leaving.is_set():
                return None
            child = stage.child = await self._family.start(
                f"{self._noun}{stage.label}",
                *self._arguments(stage.label, peers, stage.span),
                environment=None if self._environment is None else self._environment(stage.label),
                hear=lambda event: self._hear(stage, event),
                hear_log=lambda line: self._log(stage.label, line),
            )
            self._tell(stage.label, {"event": "stage_started", "pid": child.process.pid})
            if self._leaving.is_set():  # asked while it was being started
                _terminate(child)
            elif self._one_by_one or not peers:
                await _either(stage.joined.wait(), child.process.wait(), timeout=JOIN_SECONDS)
        return child

    def _hear(self, stage: _Running, event: dict[str, Any]) -> None:
        match event:
            case {"event": "joined" | "relaying", "maddrs": maddrs}:
                stage.address = maddrs[0] if maddrs else None
                stage.has_joined = True
                stage.joined.set()
            case {"event": "ready"}:  # of a gateway, which is nobody's way in
                stage.has_joined = True
                stage.joined.set()
            case {"event": "chose", "span": str(span)}:
                stage.span = span
        self._tell(stage.label, event)


async def _either(*waits: Any, timeout: float) -> None:
    """Wait for the first of them."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _terminate(child: Child | None) -> None:
    if child is not None and child.process.returncode is None:
        with suppress(ProcessLookupError):
            child.process.terminate()


def why_it_ended(child: Child, code: int) -> str:
    """Why it ended, for people: the signal that killed it, else the last thing that it said."""
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    said = [line for line in child.log if line.strip()]
    last = next((line for line in reversed(said) if line.startswith("error:")), said[-1] if said else "")
    return last.removeprefix("error:").strip() or f"it ended with exit code {code}"
