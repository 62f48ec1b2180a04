"""Becomes a command inside a network namespace, killed by the kernel when the process that started it ends.

    python -I -S enter.py NAMESPACE PARENT_PID COMMAND…

Needs nothing but the standard library, so that it costs milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
FOLDER = "/run/netns"
"""Where `ip netns` keeps names."""


def set_namespace(path: str) -> None:
    """Move the calling thread, and what it starts from now on, into the namespace of a file. Raises `OSError`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns {path}: {os.strerror(number)}")
    finally:
        os.close(handle)


def main() -> None:
    """Replace this process by the command."""
    name, parent, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)
    set_namespace(f"{FOLDER}/{name}")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error}")


if __name__ == "__main__":
    main()
