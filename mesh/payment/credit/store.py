"""Receipts and vouchers on disk: what a gateway has signed and what a provider holds, safe against a crash anywhere.

A gateway writes a voucher down before it sends it, so that it never forgets a promise; a provider writes it down before
it counts, so that it never loses one. Every write is a transaction, synced to the disk (sqlite, WAL,
`synchronous=FULL`). Only the highest voucher of a slot (gateway, provider, model, epoch) is kept: they are cumulative.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mesh.payment.credit.line import GENESIS, Pair
from mesh.payment.database import Database

Side = Literal["issued", "held"]
"""`issued`: we are the gateway. `held`: we are the provider."""

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS slots (
    side TEXT NOT NULL, gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL, peer TEXT NOT NULL,
    voucher_units INTEGER NOT NULL DEFAULT 0, voucher_signature BLOB,
    receipt_units INTEGER NOT NULL DEFAULT 0, receipt_signature BLOB,
    PRIMARY KEY (side, gateway, provider, model_id, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chains (
    side TEXT NOT NULL, gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL,
    sequence INTEGER NOT NULL, link BLOB NOT NULL,
    PRIMARY KEY (side, gateway, provider, model_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (
    side TEXT NOT NULL, gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL,
    sequence INTEGER NOT NULL, epoch INTEGER NOT NULL, units INTEGER NOT NULL, link BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (side, gateway, provider, model_id, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sealed (gateway TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (gateway, epoch));
"""


class Sealed(Exception):
    """The gateway has begun to settle this epoch: nothing is signed for it any more."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One pair in one epoch. Signatures are 65 bytes, or None where there is none yet."""

    pair: Pair
    epoch: int
    peer: str
    """The other side's peer id."""
    voucher_units: int
    voucher_signature: bytes | None
    receipt_units: int
    receipt_signature: bytes | None


class PaymentJournal(Database):
    """Use as a context manager. Every method is one transaction and may be called from any thread."""

    def __init__(self, path: Path | None) -> None:
        """`path` None keeps it in memory. Raises `ConfigError` when the file cannot be opened."""
        super().__init__(path, _SCHEMA, version=VERSION, what=f"the payment journal {path}")

    # --- both sides ---

    def slots(self, side: Side, *, epoch: int | None = None, pair: Pair | None = None) -> list[Slot]:
        """What is written down, by epoch, then provider and gateway."""
        where = ["side = ?"]
        values: list[str] = [side]
        if epoch is not None:
            where.append("epoch = ?")
            values.append(str(epoch))
        if pair is not None:
            where.append("gateway = ? AND provider = ? AND model_id = ?")
            values += [pair.gateway, pair.provider, str(pair.model_id)]
        columns = (
            "gateway, provider, model_id, epoch, peer, voucher_units, voucher_signature, receipt_units, "
            "receipt_signature"
        )
        query = f"SELECT {columns} FROM slots WHERE {' AND '.join(where)} ORDER BY epoch, provider, gateway, model_id"
        with self._lock:
            rows = self._db.execute(query, values).fetchall()
        return [Slot(Pair(row[0], row[1], row[2]), *row[3:]) for row in rows]

    def chain(self, side: Side, pair: Pair) -> tuple[int, bytes]:
        """Sequence number and link of the last receipt of a pair."""
        query = "SELECT sequence, link FROM chains WHERE side = ? AND gateway = ? AND provider = ? AND model_id = ?"
        with self._lock:
            row = self._db.execute(query, (side, *_key(pair))).fetchone()
        return (row[0], row[1]) if row is not None else (0, GENESIS)

    def receipts(self, side: Side, pair: Pair) -> list[tuple[int, int, int, bytes, bytes]]:
        """(sequence, epoch, units, link, signature) of every receipt that is kept, in order."""
        query = (
            "SELECT sequence, epoch, units, link, signature FROM receipts WHERE side = ? AND gateway = ? "
            "AND provider = ? AND model_id = ? ORDER BY sequence"
        )
        with self._lock:
            return self._db.execute(query, (side, *_key(pair))).fetchall()

    def record_receipt(
        self, side: Side, pair: Pair, peer: str, epoch: int, sequence: int, units: int, link: bytes, signature: bytes
    ) -> None:
        """Write down a receipt: before sending it (provider), before signing for it (gateway)."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO slots (side, gateway, provider, model_id, epoch, peer, receipt_units, receipt_signature) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET peer = excluded.peer, "
                "receipt_units = excluded.receipt_units, receipt_signature = excluded.receipt_signature "
                "WHERE excluded.receipt_units >= slots.receipt_units",
                (side, *_key(pair), epoch, peer, units, signature),
            )
            db.execute("INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?, ?, ?)", (side, *_key(pair), sequence, link))
            db.execute(
                "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (side, *_key(pair), sequence, epoch, units, link, signature),
            )

    def record_voucher(self, side: Side, pair: Pair, peer: str, epoch: int, units: int, signature: bytes) -> bool:
        """Write down a voucher; False when one that is as high is there already. Raises `Sealed` (gateway)."""
        with self._transaction() as db:
            if side == "issued" and _is_sealed(db, pair.gateway, epoch):
                raise Sealed(f"epoch {epoch} is being settled")
            known = db.execute(
                "SELECT voucher_units FROM slots WHERE side = ? AND gateway = ? AND provider = ? AND model_id = ? "
                "AND epoch = ?",
                (side, *_key(pair), epoch),
            ).fetchone()
            if known is not None and known[0] >= units:
                return False
            db.execute(
                "INSERT INTO slots (side, gateway, provider, model_id, epoch, peer, voucher_units, voucher_signature) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET peer = excluded.peer, "
                "voucher_units = excluded.voucher_units, voucher_signature = excluded.voucher_signature",
                (side, *_key(pair), epoch, peer, units, signature),
            )
        return True

    # --- the gateway's epochs ---

    def seal(self, gateway: str, epoch: int) -> list[Slot]:
        """Sign nothing more for `epoch`; what was signed for it. May be repeated."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO sealed VALUES (?, ?)", (gateway, epoch))
        return [
            slot for slot in self.slots("issued", epoch=epoch) if slot.pair.gateway == gateway and slot.voucher_units
        ]

    def is_sealed(self, gateway: str, epoch: int) -> bool:
        with self._lock:
            return _is_sealed(self._db, gateway, epoch)

    def prune(self, before: int) -> None:
        """Drop the single receipts of epochs below `before`; slots stay: they are what a claim is proved with."""
        with self._transaction() as db:
            db.execute("DELETE FROM receipts WHERE epoch < ?", (before,))


def _key(pair: Pair) -> tuple[str, str, int]:
    return pair.gateway, pair.provider, pair.model_id


def _is_sealed(db: sqlite3.Connection, gateway: str, epoch: int) -> bool:
    query = "SELECT 1 FROM sealed WHERE gateway = ? AND epoch = ?"
    return db.execute(query, (gateway, epoch)).fetchone() is not None
