"""The highest amount that a payer ever promised each gateway, on disk before the promise is sent (sqlite)."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from chain.primitives import Address
from chain.vouchers import Domain
from mesh.errors import ConfigError

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS promises (
    chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL, gateway TEXT NOT NULL, amount TEXT NOT NULL,
    PRIMARY KEY (chain_id, escrow, payer, gateway)) WITHOUT ROWID;
"""


class PayerStore:
    """Use as a context manager. Every method is one transaction; several processes may share the file."""

    def __init__(self, path: Path | None) -> None:
        """`path` None keeps it in memory. Raises `ConfigError` when the file cannot be opened."""
        self._lock = threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the promises in {path} cannot be opened: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._db.close()

    def highest(self, domain: Domain, payer: Address, gateway: str) -> int:
        """Wei that were ever promised, 0 where nothing was."""
        with self._lock:
            row = self._db.execute(
                "SELECT amount FROM promises WHERE chain_id = ? AND escrow = ? AND payer = ? AND gateway = ?",
                (domain.chain_id, domain.contract, payer, gateway),
            ).fetchone()
        return 0 if row is None else int(row[0])

    def promise(self, domain: Domain, payer: Address, gateway: str, amount: int) -> None:
        """Write down that `amount` is about to be promised; a lower one changes nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                key = (domain.chain_id, domain.contract, payer, gateway)
                row = self._db.execute(
                    "SELECT amount FROM promises WHERE chain_id = ? AND escrow = ? AND payer = ? AND gateway = ?", key
                ).fetchone()
                if row is None or int(row[0]) < amount:
                    self._db.execute("INSERT OR REPLACE INTO promises VALUES (?, ?, ?, ?, ?)", (*key, str(amount)))
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
