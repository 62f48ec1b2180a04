"""Commands that cannot outlive the tests, even where those get `kill -9`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from mesh.transport import guard


def guarded(command: Sequence[str]) -> list[str]:
    """The command, killed by the kernel when we end (on Linux).

    The kernel means the thread that starts it: only the main thread is sure to live as long as we do.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return list(command)
    return guard.guarded(list(command))
