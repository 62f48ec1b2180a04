"""The highest amount that a payer ever promised each gateway, on disk before the promise is sent (sqlite)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from chain.primitives import Address
from chain.vouchers import Domain
from mesh.payment.database import Database

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS promises (
    chain_id INTEGER NOT NULL, escrow BLOB NOT NULL, payer BLOB NOT NULL, gateway TEXT NOT NULL, amount TEXT NOT NULL,
    PRIMARY KEY (chain_id, escrow, payer, gateway)) WITHOUT ROWID;
"""


class PayerStore(Database):
    """Use as a context manager. Every method is one transaction; several processes may share the file."""

    def __init__(self, path: Path | None) -> None:
        """`path` None keeps it in memory. Raises `ConfigError` when the file cannot be opened."""
        super().__init__(path, _SCHEMA, version=0, what=f"the promises in {path}")

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
        key = (domain.chain_id, domain.contract, payer, gateway)
        with self._transaction() as db:
            row = db.execute(
                "SELECT amount FROM promises WHERE chain_id = ? AND escrow = ? AND payer = ? AND gateway = ?", key
            ).fetchone()
            if row is None or int(row[0]) < amount:
                db.execute("INSERT OR REPLACE INTO promises VALUES (?, ?, ?, ?, ?)", (*key, str(amount)))
