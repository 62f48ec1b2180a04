"""A sqlite file that survives a crash at any point: opened, checked and closed alike by every store of the payments."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.errors import ConfigError


class Database:
    """Base of the stores; use as a context manager. What is written is on disk before a transaction ends."""

    def __init__(self, path: Path | None, schema: str, *, version: int, what: str) -> None:
        """`path` None keeps it in memory; `what` names the file in errors.

        Raises `ConfigError` when the file cannot be opened, or is of another version.
        """
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, timeout=10)
            self._opened = self._db
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, version):
                raise ConfigError(f"{what} is of version {found}, this software knows {version}")
            self._db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version={version}; COMMIT;")
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise ConfigError(f"{what} cannot be opened: {error}") from error
        except ConfigError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
