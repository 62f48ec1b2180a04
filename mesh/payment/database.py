"""A sqlite file that survives a crash at any point: opened, checked and closed alike by every store of the payments.

A disk that is full, read-only or broken fails what has to be written with `StorageUnavailable`, and nothing else: the
transaction is undone as a whole, and the next one is tried afresh, so that all goes on once there is room.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mesh.errors import ConfigError, StorageUnavailable

logger = logging.getLogger(__name__)

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_IN_USE, _CLOSED = b"open  ", b"closed"
"""What the lock file beside a database says: whether its process came to its end."""


class Database:
    """Base of the stores; use as a context manager. What is written is on disk before a transaction ends."""

    def __init__(self, path: Path | None, schema: str, *, version: int, what: str, exclusive: bool = False) -> None:
        """`path` None keeps it in memory; `what` names the file in errors; with `exclusive` no other process has it.

        Raises `ConfigError` when the file cannot be opened, is damaged, is of another version, or is in use.
        """
        self._what = what
        self._version = version
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        self._claim: int | None = None
        self._failing = False
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if exclusive:
                    self._claim = self._claim_file(path)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, timeout=10)
            self._opened = self._db
            self._prepare(schema, is_new=path is not None and not path.stat().st_size)
            self._note_state(_IN_USE)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise ConfigError(f"{what} cannot be opened: {error}{_way_out(error)}") from error
        except ConfigError:
            self.close()
            raise

    def _prepare(self, schema: str, *, is_new: bool) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, self._version):
            newer = found > self._version
            raise ConfigError(
                f"{self._what} is of version {found}, this software knows {self._version}: "
                + ("update this software" if newer else "an older release of this software reads it")
                + ", or restore a backup that it made (`mesh restore`)"
            )
        wrong = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if wrong != "ok":
            raise sqlite3.DatabaseError(" ".join(str(wrong).split()))
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version={self._version}; COMMIT;")
        if is_new:
            # So that a copy of the file without its -wal, or one that loses it, still says what it is.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

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
                with suppress(OSError):
                    self._note_state(_CLOSED)
                self._opened = None
            if self._claim is not None:
                os.close(self._claim)
                self._claim = None

    def failing(self) -> bool:
        """Whether the last write failed, so that the next may as well; `probe` finds out."""
        return self._failing

    def probe(self) -> bool:
        """Write something that changes nothing; whether that works."""
        with suppress(StorageUnavailable), self._transaction() as db:
            db.execute(f"PRAGMA user_version={self._version}")
        return not self.failing()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Raises `StorageUnavailable`, and nothing of it is written, when the disk does not take it."""
        with self._lock:
            try:
                if self._db.in_transaction:  # an earlier one could not even be undone
                    self._db.execute("ROLLBACK")
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    # A disk that is full may have undone it already.
                    if self._db.in_transaction:
                        with suppress(sqlite3.Error):
                            self._db.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                self._raise_if_storage(error, "written")
                raise
            if self._failing:
                self._failing = False
                logger.warning("%s can be written again", self._what)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Raises `StorageUnavailable` when the file cannot be read."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.DatabaseError as error:
                self._raise_if_storage(error, "read")
                raise

    def _raise_if_storage(self, error: sqlite3.DatabaseError, done: str) -> None:
        """Only what the disk did: a broken constraint, say, is a bug of ours."""
        if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
            return
        text = f"{self._what} cannot be {done}: {error}{_way_out(error)}"
        if not self._failing:
            self._failing = True
            logger.error("%s; what depends on it waits until that is over", text)
        raise StorageUnavailable(text) from error

    def _note_state(self, state: bytes) -> None:
        """Note beside an exclusive file how far its process came."""
        if self._claim is not None:
            os.pwrite(self._claim, state, 0)

    def _claim_file(self, path: Path) -> int:
        """Lock the file's neighbour for this process; the kernel frees it however the process ends."""
        claim = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._compare(path, os.pread(claim, len(_IN_USE), 0))
        except BlockingIOError:
            os.close(claim)
            raise ConfigError(f"another process uses {self._what}: stop that one first") from None
        except BaseException:
            os.close(claim)
            raise
        return claim

    def _compare(self, path: Path, state: bytes) -> None:
        """Whether the file is as its last process left it. Raises `ConfigError` where it is not to be used."""
        if not state:
            return
        if not path.exists():
            logger.warning("%s is gone: it begins anew, with what others still hold of it", self._what)
        elif not path.stat().st_size:
            raise ConfigError(
                f"{self._what} is empty, and was not: restore it from a backup (`mesh restore`), or remove it to "
                "begin anew"
            )
        elif state == _IN_USE and not path.with_name(path.name + "-wal").exists():
            logger.warning(
                "%s was not closed, and its -wal file is gone: what was written last may be missing", self._what
            )


def _way_out(error: Exception) -> str:
    """What the operator can do about an error of the disk."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, sqlite3.OperationalError | OSError) and (code is None or code & 0xFF not in _BROKEN):
        return ""
    return ": it is damaged; restore it from a backup (`mesh restore`)"
