"""A process of its own that asks /health all the time and looks at processes' memory: one JSON line for each look.

It also says how late it woke up itself, which is what the machine is to blame for.
`python -m tests.scenarios.corpus.prober URL PID...` goes on until its stdin is closed.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit

import psutil

PAUSE_SECONDS = 0.1
MEMORY_EVERY = 3
TIMEOUT = 30.0


def held(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and of it with all its children."""
    process = psutil.Process(pid)
    own = process.memory_info().rss
    total = own
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return own, total


def main() -> None:
    url, pids = urlsplit(sys.argv[1]), [int(pid) for pid in sys.argv[2:]]
    connection: http.client.HTTPConnection | None = None
    looks = 0
    ended = time.monotonic()
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        began = time.monotonic()
        late = began - ended - PAUSE_SECONDS
        try:
            if connection is None:
                connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT)
            connection.request("GET", "/health")
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            connection, status = None, 0
        look: dict[str, object] = {"at": began, "seconds": time.monotonic() - began, "status": status, "late": late}
        if looks % MEMORY_EVERY == 0:
            look["memory"] = [held(pid) for pid in pids]
        looks += 1
        sys.stdout.write(json.dumps(look) + "\n")
        sys.stdout.flush()
        ended = time.monotonic()


if __name__ == "__main__":
    main()
