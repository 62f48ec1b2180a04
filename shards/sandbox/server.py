"""The fork server of a sandbox, and the workers that it forks; a script that runs in a process of its own.

It imports the module with the work once, then forks a worker for each socket that the parent hands it. A worker dies
with the server (the kernel sees to it on Linux), the server when its parent does (its control socket ends).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FORK, END = b"F", b"E"
NUMBER = struct.Struct(">i")
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # <linux/prctl.h>
_OPEN_FILES = 64
_NICENESS = 5
_MAX_ERROR = 500
_MAX_REQUEST = 256 << 20
_LINUX = sys.platform == "linux"

Operations = Mapping[str, Callable[..., Any]]


def serve(control: socket.socket, new_operations: Callable[[], Operations]) -> None:
    """Fork workers and end them as the parent says, until it hangs up."""
    statuses: dict[int, int] = {}

    def reap(*_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            statuses[pid] = os.waitstatus_to_exitcode(status)
            if not statuses[pid]:  # ended because the parent hung up, so nobody will ask
                del statuses[pid]

    signal.signal(signal.SIGCHLD, reap)
    gc.freeze()
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1 + NUMBER.size, 1)
        if not message:
            return
        if message[:1] == FORK:
            server = os.getpid()
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    control.close()
                    _become_worker(server)
                    work(socket.socket(fileno=handles[0]), new_operations())
                    code = 0
                finally:
                    os._exit(code)
            os.close(handles[0])
            control.sendall(NUMBER.pack(pid))
        else:
            (pid,) = NUMBER.unpack(message[1:])
            control.sendall(NUMBER.pack(_end(pid, statuses)))


def work(channel: socket.socket, operations: Operations) -> None:
    """Answer requests `[operation, arguments, seconds, bytes]` within these limits, until the parent hangs up.

    An answer is `["ok", result, bytes in use]`, `["error", text]`, or `["memory"]` when there was not enough.
    """
    import msgpack

    from shards.errors import ShardError
    from shards.sandbox import frames

    base = _pages(0)
    while (request := frames.receive(channel, _MAX_REQUEST)) is not None:
        operation, arguments, seconds, memory = msgpack.unpackb(request, strict_map_key=False)
        del request
        _limit(seconds, base + memory)
        answer: list[Any]
        try:
            answer = ["ok", operations[operation](*arguments), _pages(1)]
            payload = msgpack.packb(answer)
        except ShardError as error:
            payload = msgpack.packb(["error", str(error)[:_MAX_ERROR].encode("utf-8", "replace")])
        except MemoryError:
            payload = msgpack.packb(["memory"])
        del arguments
        _limit(seconds, None)
        frames.send(channel, payload)
        del payload


def _become_worker(server: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if _LINUX:
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                os._exit(1)
        if os.getppid() != server:  # it died before the request above could take effect
            os._exit(1)
    os.nice(_NICENESS)
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(limit, (most, most))


def _limit(seconds: float, memory: int | None) -> None:
    """Processor time from now on, over which the kernel kills us, and address space in all (None: any)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    whole = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, resource.RLIM_INFINITY))
    if _LINUX:  # elsewhere not enforced
        most = resource.RLIM_INFINITY if memory is None else memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _pages(field: int) -> int:
    """Bytes of address space (0) or of memory (1) that we use."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[field]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _end(pid: int, statuses: dict[int, int]) -> int:
    """Kill a worker, if it lives; its exit code, negative for a signal, 0 where it is not known."""
    if pid in statuses:
        return statuses.pop(pid)
    try:
        os.kill(pid, signal.SIGKILL)  # ours, and not waited for yet: the number cannot be another process's
        _, status = os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return statuses.pop(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """`server.py PATHS MODULE`, with the control socket as standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then hangs up
    sys.path[:] = json.loads(sys.argv[1])
    module = importlib.import_module(sys.argv[2])
    importlib.import_module("msgpack")
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    control.sendall(NUMBER.pack(os.getpid()))
    serve(control, module.new_operations)


if __name__ == "__main__":
    main()
