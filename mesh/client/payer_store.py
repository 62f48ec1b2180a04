"""What a payer promised each gateway, and believes was handed out for it: on disk before a promise is sent (sqlite)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from chain.primitives import Address
from chain.vouchers import Domain
from mesh.payment.database import Database

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS promises (
    chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL, gateway TEXT NOT NULL, amount TEXT NOT NULL,
    PRIMARY KEY (chain_id, escrow, payer, gateway)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS followed (
    chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL, gateway TEXT NOT NULL, amount TEXT NOT NULL,
    PRIMARY KEY (chain_id, escrow, payer, gateway)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gateways (
    url TEXT PRIMARY KEY, chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, gateway TEXT NOT NULL) WITHOUT ROWID;
"""


class PayerStore(Database):
    """Use as a context manager. Every method is one transaction; several processes may share the file."""

    def __init__(self, path: Path | None) -> None:
        """`path` None keeps it in memory. Raises as `Database`; every method `StorageUnavailable`."""
        super().__init__(path, _SCHEMA, version=0, what=f"the promises in {path}")

    def highest(self, domain: Domain, payer: Address, gateway: str) -> int:
        """Wei that were ever promised, 0 where nothing was."""
        return self._amount("promises", (domain.chain_id, domain.contract, payer, gateway))

    def followed(self, domain: Domain, payer: Address, gateway: str) -> int:
        """Wei that the gateway has handed out, as far as it was believed; 0 where nothing is known."""
        return self._amount("followed", (domain.chain_id, domain.contract, payer, gateway))

    def promise(self, domain: Domain, payer: Address, gateway: str, amount: int, *, followed: int = 0) -> None:
        """Write down that `amount` is about to be promised, and `followed`; lower ones change nothing."""
        key = (domain.chain_id, domain.contract, payer, gateway)
        with self._transaction() as db:
            for table, value in (("promises", amount), ("followed", followed)):
                if value > self._amount_in(db, table, key):
                    db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", (*key, str(value)))

    def identity(self, url: str) -> tuple[Domain, str] | None:
        """Chain, Escrow contract and id under which the gateway at this address was paid first."""
        with self._reading() as db:
            row = db.execute("SELECT chain_id, escrow, gateway FROM gateways WHERE url = ?", (url,)).fetchone()
        return None if row is None else (Domain(row[0], bytes(row[1])), row[2])

    def remember(self, url: str, domain: Domain, gateway: str) -> None:
        """Hold the gateway at this address to who it is now."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO gateways VALUES (?, ?, ?, ?)", (url, domain.chain_id, domain.contract, gateway)
            )

    def _amount(self, table: str, key: tuple[int, bytes, bytes, str]) -> int:
        with self._reading() as db:
            return self._amount_in(db, table, key)

    @staticmethod
    def _amount_in(db: sqlite3.Connection, table: str, key: tuple[int, bytes, bytes, str]) -> int:
        row = db.execute(
            f"SELECT amount FROM {table} WHERE chain_id = ? AND escrow = ? AND payer = ? AND gateway = ?", key
        ).fetchone()
        return 0 if row is None else int(row[0])
