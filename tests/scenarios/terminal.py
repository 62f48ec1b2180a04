"""A command in a pseudo-terminal: keys go in, what the screen would show comes out."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

CTRL_C = "\x03"
CTRL_D = "\x04"
_LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """`with Terminal(["chat", …], environment) as terminal:` runs `mesh chat …` as a user would."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.screen = ""
        self._seen = 0
        self._arguments = arguments
        self._environment = {**environment, "TERM": "xterm"}

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        # A session of its own with this terminal in control, so that Ctrl-C is a signal to it.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, sys.executable, "-m", "mesh", *self._arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environment,
            start_new_session=True,
        )
        os.close(slave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        os.close(self._master)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def shows(self, text: str, *, seconds: float = 60.0) -> str:
        """Wait until `text` appears after what was waited for last; returns what came before it."""
        deadline = time.monotonic() + seconds
        while text not in self.screen[self._seen :]:
            assert self._read(deadline - time.monotonic()), f"no {text!r} on the screen: {self.screen!r}"
        before, _, _ = self.screen[self._seen :].partition(text)
        self._seen += len(before) + len(text)
        return before

    def grows(self, characters: int, *, seconds: float = 60.0) -> None:
        """Wait for that much more than was waited for last."""
        deadline = time.monotonic() + seconds
        while len(self.screen) < self._seen + characters:
            assert self._read(deadline - time.monotonic()), f"too little on the screen: {self.screen!r}"

    def ends(self, *, seconds: float = 5.0) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Take in some output; False when none came in time or it has ended."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, seconds))
        if not ready:
            return False
        with contextlib.suppress(OSError):  # Linux says EIO when the other end is closed
            data = os.read(self._master, 4096)
            self.screen += data.decode(errors="replace")
            return bool(data)
        return False
