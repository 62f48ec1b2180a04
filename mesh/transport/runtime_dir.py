"""A private directory for a process's sockets that is cleaned up after it, whatever way the process ends.

Each process holds a lock on a file in its directory; the kernel drops the lock when the process dies, so the
next process that starts can tell a stale directory from one in use without trusting process ids.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.errors import ConfigError

_LOCK = "lock"
_LONGEST_ROOT = 60  # bytes; a Unix socket's path has room for 107 on Linux and 103 on macOS


class RuntimeDirectory:
    """`with RuntimeDirectory(root) as directory: directory.path` is a fresh directory of mode 0700."""

    def __init__(self, root: Path | None = None) -> None:
        """`root` holds the directories of all processes of this user (default `/tmp/mesh-UID`)."""
        self._root = root or Path(f"/tmp/mesh-{os.getuid()}")
        self._lock: int | None = None
        self.path: Path

    def __enter__(self) -> Self:
        """Make the directory and remove those of dead processes. Raises `ConfigError`."""
        if len(os.fsencode(self._root)) > _LONGEST_ROOT:
            raise ConfigError(f"the runtime directory {self._root} is too long for a socket: use a shorter path")
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self._root)
            sweep(self._root)
            # Locked before it has the name that the sweep of another process looks at.
            name = secrets.token_hex(4)
            draft = self._root / f"new-{name}"
            draft.mkdir(mode=0o700)
            self._lock = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path = draft.rename(self._root / f"run-{name}")
        except OSError as error:
            raise ConfigError(f"no runtime directory can be made in {self._root}: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(root: Path) -> None:
    """Remove the runtime directories in `root` that no living process holds."""
    for directory in root.glob("run-*"):
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process is removing it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(lock)


def _check_private(root: Path) -> None:
    """Refuse a root that somebody else made or can write to: they could take our sockets' places."""
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{root} is not a directory that only you can use: remove it, or choose another runtime directory"
        )
