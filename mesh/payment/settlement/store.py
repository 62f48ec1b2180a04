"""What settlement must not forget: leaves that we posted, leaves of ours that others posted, reports that we signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chain.merkle import Proof, Sibling
from chain.primitives import word
from mesh.payment.database import Database
from mesh.payment.settlement.provider_plan import SlotId

VERSION: Final = 2
WORD: Final = 32
KEPT_EPOCHS: Final = 1024
"""How long it is remembered that a slot is settled, and what reports said."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS published (
    gateway TEXT NOT NULL, model_id INTEGER NOT NULL, epoch INTEGER NOT NULL, root BLOB NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (gateway, model_id, epoch, root));
CREATE TABLE IF NOT EXISTS posted (
    gateway TEXT NOT NULL, model_id INTEGER NOT NULL, epoch INTEGER NOT NULL, root BLOB NOT NULL,
    PRIMARY KEY (gateway, model_id, epoch));
CREATE TABLE IF NOT EXISTS reports (
    gateway TEXT NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (gateway, epoch));
CREATE TABLE IF NOT EXISTS leaves (
    gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL, epoch INTEGER NOT NULL,
    root BLOB NOT NULL, units TEXT NOT NULL, proof BLOB NOT NULL,
    PRIMARY KEY (gateway, provider, model_id, epoch));
CREATE TABLE IF NOT EXISTS settled (
    gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL, epoch INTEGER NOT NULL,
    PRIMARY KEY (gateway, provider, model_id, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lines (
    gateway TEXT NOT NULL, provider TEXT NOT NULL, PRIMARY KEY (gateway, provider)) WITHOUT ROWID;
"""
_SLOT: Final = "gateway = ? AND provider = ? AND model_id = ? AND epoch = ?"


@dataclass(frozen=True, slots=True)
class OwnLeaf:
    """Our leaf in a posted tree: 0 units and no proof where the tree has none."""

    root: bytes
    units: int
    proof: Proof


class SettlementStore(Database):
    """A sqlite file; use as a context manager. Every write is on disk before the method returns."""

    def __init__(self, path: Path | None, *, exclusive: bool = False) -> None:
        """`path` None keeps it in memory. Raises as `Database`; every method `StorageUnavailable`."""
        super().__init__(path, _SCHEMA, version=VERSION, what=f"the settlement file {path}", exclusive=exclusive)

    # --- the gateway's ---

    def publish(self, gateway: str, model_id: int, epoch: int, root: bytes, body: bytes) -> None:
        """Keep leaves before their root is posted; whatever root ends up on the chain, its leaves are here."""
        self._write("INSERT OR IGNORE INTO published VALUES (?, ?, ?, ?, ?)", gateway, model_id, epoch, root, body)

    def mark_posted(self, gateway: str, model_id: int, epoch: int, root: bytes) -> None:
        """The chain has this root: its leaves are the ones to serve."""
        self._write("INSERT OR REPLACE INTO posted VALUES (?, ?, ?, ?)", gateway, model_id, epoch, root)

    def posted_root(self, gateway: str, model_id: int, epoch: int) -> bytes | None:
        row = self._one(
            "SELECT root FROM posted WHERE gateway = ? AND model_id = ? AND epoch = ?", gateway, model_id, epoch
        )
        return None if row is None else bytes(row[0])

    def published(self, gateway: str, model_id: int, epoch: int, root: bytes | None = None) -> bytes | None:
        """The canonical text of the leaves with this root, or with the one that was posted."""
        wanted = root or self.posted_root(gateway, model_id, epoch)
        row = self._one(
            "SELECT body FROM published WHERE gateway = ? AND model_id = ? AND epoch = ? AND root = ?",
            gateway,
            model_id,
            epoch,
            wanted,
        )
        return None if row is None else bytes(row[0])

    def keep_reports(self, gateway: str, epoch: int, body: bytes) -> bytes:
        """Keep the first reports that we signed for an epoch; the ones that are kept."""
        self._write("INSERT OR IGNORE INTO reports VALUES (?, ?, ?)", gateway, epoch, body)
        return self.reports(gateway, epoch) or body

    def reports(self, gateway: str, epoch: int) -> bytes | None:
        row = self._one("SELECT body FROM reports WHERE gateway = ? AND epoch = ?", gateway, epoch)
        return None if row is None else bytes(row[0])

    def keep_line(self, gateway: str, provider: str) -> None:
        """We are about to fund our line for this provider, and shall take it back when it is not needed."""
        self._write("INSERT OR IGNORE INTO lines VALUES (?, ?)", gateway, provider)

    def forget_line(self, gateway: str, provider: str) -> None:
        self._write("DELETE FROM lines WHERE gateway = ? AND provider = ?", gateway, provider)

    def lines(self, gateway: str) -> frozenset[str]:
        """Ids of the providers whose lines we have funded."""
        with self._reading() as db:
            rows = db.execute("SELECT provider FROM lines WHERE gateway = ?", (gateway,)).fetchall()
        return frozenset(row[0] for row in rows)

    # --- the provider's ---

    def keep_leaf(self, slot: SlotId, leaf: OwnLeaf) -> None:
        """Keep the largest leaf of a root: a gateway may have put two of ours into its tree."""
        proof = b"".join(each.hash + word(each.units) for each in leaf.proof)
        with self._transaction() as db:
            known = db.execute(f"SELECT root, units FROM leaves WHERE {_SLOT}", _key(slot)).fetchone()
            if known is not None and bytes(known[0]) == leaf.root and int(known[1]) >= leaf.units:
                return
            db.execute(
                "INSERT OR REPLACE INTO leaves VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_key(slot), leaf.root, str(leaf.units), proof),
            )

    def leaf(self, slot: SlotId) -> OwnLeaf | None:
        row = self._one(f"SELECT root, units, proof FROM leaves WHERE {_SLOT}", *_key(slot))
        if row is None:
            return None
        packed = bytes(row[2])
        words = [packed[at : at + WORD] for at in range(0, len(packed), WORD)]
        proof = tuple(
            Sibling(hashed, int.from_bytes(units)) for hashed, units in zip(words[::2], words[1::2], strict=True)
        )
        return OwnLeaf(bytes(row[0]), int(row[1]), proof)

    def settle(self, slot: SlotId) -> None:
        """Nothing can be due for this slot any more."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO settled VALUES (?, ?, ?, ?)", _key(slot))
            db.execute(f"DELETE FROM leaves WHERE {_SLOT}", _key(slot))

    def settled(self) -> set[SlotId]:
        with self._reading() as db:
            return {SlotId(*row) for row in db.execute("SELECT * FROM settled").fetchall()}

    def unsettled_leaves(self) -> set[SlotId]:
        """Slots of which we have a leaf that is not settled: the journal may have forgotten them already."""
        query = "SELECT gateway, provider, model_id, epoch FROM leaves WHERE units != '0'"
        with self._reading() as db:
            return {SlotId(*row) for row in db.execute(query).fetchall()}

    def prune(self, before: int) -> None:
        """Forget epochs below `before`: which slots are settled, leaves that nobody proved, and reports."""
        with self._transaction() as db:
            for table in ("settled", "leaves", "reports"):
                db.execute(f"DELETE FROM {table} WHERE epoch < ?", (before,))

    def _write(self, query: str, *values: object) -> None:
        with self._transaction() as db:
            db.execute(query, values)

    def _one(self, query: str, *values: object) -> tuple[bytes, ...] | None:
        with self._reading() as db:
            row: tuple[bytes, ...] | None = db.execute(query, values).fetchone()
        return row


def _key(slot: SlotId) -> tuple[str, str, int, int]:
    return slot.gateway, slot.provider, slot.model_id, slot.epoch
