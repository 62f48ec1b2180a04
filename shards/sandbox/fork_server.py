"""The parent's end of a fork server: starts it when it is needed, and has it fork and end workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from shards.sandbox.server import END, FORK, NUMBER

START_SECONDS = 30.0
ANSWER_SECONDS = 10.0
_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {
    "RAYON_NUM_THREADS": "1",  # a thread has a stack and an arena of its own, which count as address space
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "1",
    "PYTHONHASHSEED": "random",
}
_INHERITED = ("TZ", "LANG", "LC_ALL", "LC_TIME", "LD_LIBRARY_PATH", "PATH")


class ServerLost(Exception):
    """The fork server does not answer; it has been ended, and the next call starts another."""


@dataclass(slots=True)
class Worker:
    """A forked worker: its process id, our end of its socket, and of which server it is."""

    pid: int
    channel: socket.socket
    generation: int

    def close(self) -> None:
        """Hang up: an idle worker ends at once."""
        self.channel.close()


class ForkServer:
    """Safe for several threads. `module` has `new_operations`; see `server.work`."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.generation = 0

    def fork(self) -> Worker:
        """A new worker. Raises `ServerLost`."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                control = self._running()
                try:
                    socket.send_fds(control, [FORK], [theirs.fileno()])
                    return Worker(_number(control), ours, self.generation)
                except OSError as error:
                    self._stop()
                    raise ServerLost("the fork server does not answer") from error
        except BaseException:
            ours.close()
            raise

    def end(self, worker: Worker) -> int | None:
        """Kill a worker; its exit code (negative: a signal), None where its server was lost and it with that."""
        worker.close()
        with self._lock:
            if self._control is None or worker.generation != self.generation:
                return None
            try:
                self._control.sendall(END + NUMBER.pack(worker.pid))
                return _number(self._control)
            except OSError:
                self._stop()
                return None

    def stop(self) -> None:
        """End the server, and with it every worker."""
        with self._lock:
            self._stop()

    def _running(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self._stop()
        paths = list(dict.fromkeys([str(_ROOT), *(path for path in sys.path if Path(path).is_absolute())]))
        script = str(Path(__file__).with_name("server.py"))
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, json.dumps(paths), self._module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ},
                cwd="/",
            )
        self._control = ours
        self.generation += 1
        ours.settimeout(START_SECONDS)
        try:
            _number(ours)
        except OSError as error:
            self._stop()
            raise ServerLost("the fork server does not start") from error
        ours.settimeout(ANSWER_SECONDS)
        return ours

    def _stop(self) -> None:
        control, process = self._control, self._process
        self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()


def _number(control: socket.socket) -> int:
    data = b""
    while len(data) < NUMBER.size:
        more = control.recv(NUMBER.size - len(data))
        if not more:
            raise ConnectionResetError("the fork server has ended")
        data += more
    number: int = NUMBER.unpack(data)[0]
    return number
