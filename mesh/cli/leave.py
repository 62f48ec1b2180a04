"""`mesh leave`: asks providers on this machine to end or hand over their sessions and go, and waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mesh.cli.console import emit, err, out, run, settled_on
from mesh.cli.identities import Holder, data_folder, holder_of, holders_in
from mesh.cli.options import AsJson
from mesh.errors import ConfigError, MeshError

POLL_SECONDS = 0.1
AGAIN_SECONDS = 0.5
"""Before the second signal, which a node must be able to tell from the first."""


def leave(
    identity: Annotated[
        list[Path] | None,
        typer.Option(
            "--identity",
            help="Key file of the node that shall leave; may be repeated.",
            show_default="the only one that runs",
        ),
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All of your providers on this machine.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Do not let sessions end: others take them over at once.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for its end.")] = 180.0,
    as_json: AsJson = False,
) -> None:
    """Ask a provider on this machine to leave, as Ctrl-C in its terminal does, and wait until it has left.

    It takes no new sessions, lets the running ones end (`mesh join --drain-seconds`) or hands them over, withdraws its
    record, and ends. Ctrl-C here ends the waiting only.
    """
    holders = settled_on(lambda: _choose(identity or [], everyone))
    run(_leave(holders, now=now, timeout=timeout, as_json=as_json))


def _choose(keys: Sequence[Path], everyone: bool) -> list[Holder]:
    """Raises `ConfigError` where it is not clear who is meant."""
    if keys:
        return [_provider_with(key) for key in dict.fromkeys(key.absolute() for key in keys)]
    here = [holder for holder in holders_in(data_folder()) if holder.is_here]
    found = [holder for holder in here if holder.role == "provider" and _node_of(holder, here) is None]
    if not found:
        raise ConfigError(f"no provider with a key in {data_folder()} runs: name another's key with --identity")
    if len(found) > 1 and not everyone:
        listed = "".join(f"\n  --identity {holder.key}  (process {holder.pid})" for holder in found)
        raise ConfigError(f"{len(found)} providers run here: say which, or --all{listed}")
    return found


def _provider_with(key: Path) -> Holder:
    holder = holder_of(key)
    if holder is None:
        raise ConfigError(f"no node with the key {key} runs")
    if not holder.is_here:
        raise ConfigError(f"the node with the key {key} runs on another machine, or in another container: ask it there")
    if holder.role != "provider":
        raise ConfigError(f"{key} is the key of a {holder.role}: stop it with Ctrl-C or SIGTERM (process {holder.pid})")
    node = _node_of(holder, holders_in(key.parent))
    if node is not None:
        raise ConfigError(f"{key} is the key of a stage, which its node would start again: leave with {node.key}")
    return holder


def _node_of(holder: Holder, others: Sequence[Holder]) -> Holder | None:
    """The node whose stage this is."""
    return next((other for other in others if other.pid == holder.parent and other.place == holder.place), None)


async def _leave(holders: Sequence[Holder], *, now: bool, timeout: float, as_json: bool) -> None:
    with _signalled(holders, as_json=as_json) as still:
        if now:
            await asyncio.sleep(AGAIN_SECONDS)
            for process in still:
                process.ask()
        try:
            async with asyncio.timeout(timeout):
                for process in still:
                    shown = escape(str(process.holder.key))
                    with err.status(f"{shown}: its sessions end") if err.is_terminal else nullcontext():
                        while process.runs():  # noqa: ASYNC110 (of another process)
                            await asyncio.sleep(POLL_SECONDS)
                    if as_json:
                        emit("left", identity=str(process.holder.key), pid=process.holder.pid)
                    else:
                        out.print(f"{shown} has left the swarm")
        except TimeoutError:
            running = ", ".join(str(process.holder.pid) for process in still if process.runs())
            raise MeshError(
                f"not gone after {timeout:g} s: process {running}. It goes on leaving; --now waits for no session"
            ) from None


class _Process:
    """A process that is the one it was, however process ids are used again (Linux; elsewhere its lock says so)."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self._handle: int | None = None
        if sys.platform == "linux":
            with suppress(OSError):
                self._handle = os.pidfd_open(holder.pid)

    def ask(self) -> None:
        """SIGTERM, if it is still there. Raises `ConfigError` where we may not."""
        if not self.runs():
            return
        try:
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGTERM)
            else:
                os.kill(self.holder.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise ConfigError(f"process {self.holder.pid} is not yours: ask its owner") from None

    def runs(self) -> bool:
        """Whether it still has its key."""
        return self.holder.same(holder_of(self.holder.key))

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def _signalled(holders: Sequence[Holder], *, as_json: bool) -> Iterator[list[_Process]]:
    """Ask all of them, so that they leave at the same time. Who leaves already takes another signal for impatience."""
    processes = [_Process(holder) for holder in holders]
    try:
        for process in processes:
            if not process.holder.leaving:
                process.ask()
            if as_json:
                emit("asked", identity=str(process.holder.key), pid=process.holder.pid)
        yield processes
    finally:
        for process in processes:
            process.close()
