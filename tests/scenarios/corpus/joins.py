"""`mesh join` of many folders, one after another, each in a process of its own that has imported everything already.

`python -m tests.scenarios.corpus.joins ARGUMENT...` reads one folder a line, runs `mesh join --model FOLDER
ARGUMENT...` and says in a line of JSON how it ended: what takes long in a process of `mesh join` is what it imports.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from typing import IO

SECONDS = 30.0
MAX_SAID = 4000


def _run(folder: str, arguments: list[str], said: IO[bytes]) -> None:
    """The `mesh` command in this (forked) process."""
    from mesh.cli.main import main

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.argv = ["mesh", "join", "--model", folder, *arguments]
    main()


_running: list[int] = []


def _end(number: int, frame: object) -> None:
    """Whoever ends us ends what runs for us too."""
    for pid in _running:
        os.killpg(pid, signal.SIGKILL)
    os._exit(1)


def join(folder: str, arguments: list[str]) -> dict[str, object]:
    """Try it; a process that does not end is killed, with all that it started."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid:
            code: object = 0
            os.setpgid(0, 0)
            try:
                _run(folder, arguments, said)
            except SystemExit as end:
                code = end.code
            except BaseException as error:  # noqa: BLE001 - a bug that must be seen, and this process must end here
                sys.stderr.write(f"{error!r}\n")
                code = 70
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
        os.setpgid(pid, pid)  # whichever of us comes first
        _running.append(pid)
        while True:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - began > SECONDS:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)
        _running.remove(pid)
        said.seek(0)
        text = said.read().decode(errors="replace")[-MAX_SAID:]
    return {
        "folder": folder,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
        "memory": used.ru_maxrss << 10,
        "said": text,
    }


def main() -> None:
    from mesh.transport import _hivemind

    _hivemind.load()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGTERM, _end)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(join(line.rstrip("\n"), sys.argv[1:])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
