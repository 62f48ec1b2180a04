"""Runs a command that cannot outlive its parent, even one that gets `kill -9`; a script with few imports.

- `python -I -S guard.py deathsig PARENT_PID COMMAND…`: the kernel kills the command with its parent (Linux).
- `python -I -S guard.py pipe PARENT_PID COMMAND…`: kills the command when standard input ends (elsewhere).
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def guarded(command: list[str], kind: str = "deathsig") -> list[str]:
    """The command line that runs `command` (an absolute path and its arguments) so that it ends when we do.

    With `deathsig` the kernel means the thread that starts it.
    """
    return [sys.executable, "-I", "-S", __file__, kind, str(os.getpid()), *command]


def die_with(parent: int) -> None:
    """Be killed by the kernel as soon as the thread that started us ends (Linux)."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent is gone already")  # it died before the request above could take effect


def exec_with_death_signal(parent: int, command: list[str]) -> None:
    """Become `command`, to be killed by the kernel as soon as the thread that started us ends."""
    die_with(parent)
    os.execv(command[0], command)


def watch_pipe(command: list[str]) -> None:
    """Run `command` as a child; end with it, and end it when standard input does or we are told to stop."""
    child = os.posix_spawn(command[0], command, os.environ)

    def stop(*_: object) -> None:
        os.kill(child, signal.SIGTERM)

    def ended(*_: object) -> None:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            os._exit(max(os.waitstatus_to_exitcode(status), 0) or int(status != 0))

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGCHLD, ended)
    ended()
    while os.read(0, 4096):
        pass
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    if sys.argv[1] == "deathsig":
        exec_with_death_signal(int(sys.argv[2]), sys.argv[3:])
    else:
        watch_pipe(sys.argv[3:])
