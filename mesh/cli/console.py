"""What every command shares: running a coroutine to a clean end, logs, progress bars, JSON lines."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from chain.errors import ChainError
from mesh.errors import MeshError
from shards.errors import ShardError

T = TypeVar("T")

KNOWN_ERRORS = (MeshError, ShardError, ChainError)
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, -1})
"""-1 is what uvloop makes of it where it has none for a child's pipes."""
"""What is raised on purpose: one line for people, no traceback."""


EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DESCRIPTORS = 65_536
"""Files and sockets that a command which serves lets itself open, where it may."""


class _Voice(Console):
    """A console whose reader may leave: a command that serves goes on without a word, any other ends."""

    needed = True

    def on_broken_pipe(self) -> None:
        _silence(sys.stderr if self.stderr else sys.stdout)
        if _Voice.needed:
            raise SystemExit(EXIT_ERROR)


def _silence(stream: TextIO) -> None:
    """From now on what is written there goes nowhere."""
    with suppress(OSError, ValueError):  # it has no file
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def take_descriptors() -> None:
    """Let this process, and its daemon, open as many files and sockets as they may: the usual 1,024 are few."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        with suppress(OSError, ValueError):  # a system that caps it elsewhere
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


out = _Voice(soft_wrap=True, highlight=False)
err = _Voice(stderr=True, soft_wrap=True, highlight=False)


def fit(columns: str | None) -> None:
    """Take the width that the environment says, for a process whose environment is newer than these consoles."""
    if columns is not None and columns.isdecimal() and int(columns) > 0:
        out.width = err.width = int(columns)


_TAG = re.compile(r"(\\*)(\[[a-z#/@][^[]*?\])")
"""What rich takes for a tag, with the backslashes before it."""
_BRACKET = re.compile(r"(\\+)\[")


def run(
    work: Coroutine[Any, Any, T], *, ends_on_signal: bool = False, ask: Callable[[], bool] | None = None
) -> T | None:
    """Run a command's coroutine; a known error becomes one line on stderr and exit code 1.

    Ctrl-C, SIGTERM and SIGHUP (its terminal is closed) cancel it, so that every `async with` on the way is left
    properly. Commands that serve until they are stopped set `ends_on_signal`: for them that is success. Where `ask`
    returns True, it has asked the command to come to an end by itself, and nothing is cancelled yet; the next signal
    may.
    """
    _Voice.needed = not ends_on_signal
    if ends_on_signal:
        take_descriptors()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # a hop costs 0.15 ms less
            return runner.run(_cancel_on_signals(work, ask, serves=ends_on_signal))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if ends_on_signal:
            return None
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except KNOWN_ERRORS as error:
        raise fail(error) from error
    except OSError as error:
        if error.errno not in _NO_DESCRIPTORS:
            raise
        work.close()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise fail(MeshError(f"this process may open no more files or sockets: raise `ulimit -n` ({most})")) from error
    except BaseExceptionGroup as group:
        known = _only_known(group)
        if known is None:
            raise
        raise fail(known) from group


def settled_on(read: Callable[[], T]) -> T:
    """What `read` makes of the options; a known error becomes one line on stderr and exit code 1."""
    try:
        return read()
    except KNOWN_ERRORS as error:
        raise fail(error) from error


def fail(error: BaseException) -> typer.Exit:
    """Say what went wrong in one line."""
    message = str(error) or type(error).__name__
    err.print(f"[bold red]error:[/] {safe(message, lines=True)}")
    return typer.Exit(EXIT_ERROR)


async def _cancel_on_signals(work: Coroutine[Any, Any, T], ask: Callable[[], bool] | None, *, serves: bool) -> T:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if task is not None and (ask is None or not ask()):
            task.cancel()

    def hang_up() -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():  # it is gone, or will be: every word to it would be an error
                _silence(stream)
        stop()

    with suppress(NotImplementedError, RuntimeError):  # not on every platform, nor outside the main thread
        loop.add_signal_handler(signal.SIGTERM, stop)
        if serves or ask is not None:  # else asyncio itself cancels at the first Ctrl-C, and ends at once at the second
            loop.add_signal_handler(signal.SIGINT, stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            loop.add_signal_handler(signal.SIGHUP, hang_up)
    return await work


def _only_known(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The first known error of a task group's failure, if there is nothing worse in it."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    if all(isinstance(leaf, KNOWN_ERRORS) for leaf in leaves):
        return leaves[0]
    return None


def set_up_logging(level: str) -> None:
    """Readable logs on stderr. Raises `typer.BadParameter` for an unknown level."""
    if level.upper() not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"unknown log level {level!r}: use debug, info, warning or error")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("mesh", "shards", "chain"):
        logging.getLogger(name).setLevel(level.upper())


def emit(event: str, **values: Any) -> None:
    """One JSON object on a line of stdout, for scripts."""
    try:
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        out.on_broken_pipe()


class ProgressBars:
    """Bars on stderr for downloads and loading, one per thing; they go away once everything is there.

    Satisfies `shards.progress.Progress`; called from worker threads. Shows nothing where stderr is not a terminal.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled and err.is_terminal
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._hide()

    def __call__(self, done_bytes: int, total_bytes: int, what: str) -> None:
        if not self._enabled:
            return
        with self._lock:
            if self._bars is None:
                columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
                self._bars = Progress(*columns, console=err, transient=True)
                self._bars.start()
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total_bytes or None)
            self._bars.update(self._tasks[what], completed=done_bytes, total=total_bytes or None)
            if self._bars.finished:
                self._hide()

    def _hide(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()


def safe(text: str, *, lines: bool = False) -> str:
    """Text of strangers for `out.print` and tables: no markup, and what cannot be seen or moves the cursor escaped.

    With `lines`, line ends stay.
    """
    shown = "".join(each if each.isprintable() or (lines and each == "\n") else repr(each)[1:-1] for each in str(text))
    # Rich escapes what looks like a tag; elsewhere it takes a backslash before a bracket for one of its own.
    pieces, at = [], 0
    for tag in _TAG.finditer(shown):
        pieces += [_BRACKET.sub(r"\1\\[", shown[at : tag.start()]), escape(tag[0])]
        at = tag.end()
    pieces.append(_BRACKET.sub(r"\1\\[", shown[at:]))
    whole = "".join(pieces)
    return whole + "\\" * ((len(whole) - len(whole.rstrip("\\"))) % 2)


def print_json(value: Any) -> None:
    """A value as JSON on stdout, in ASCII: nothing in it can command a terminal."""
    out.print_json(json.dumps(value), ensure_ascii=True)
