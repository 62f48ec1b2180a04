"""What settlement must not forget: leaves that we posted, leaves of ours that others posted, reports that we signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.payment.database import Database
from mesh.payment.settlement.provider_plan import SlotId

VERSION: Final = 1
HASH_BYTES: Final = 32
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
"""


@dataclass(frozen=True, slots=True)
class OwnLeaf:
    """Our leaf in a posted tree: 0 units and no proof where the tree has none."""

    root: bytes
    units: int
    proof: tuple[bytes, ...]


class SettlementStore(Database):
    """A sqlite file; use as a context manager. Every write is on disk before the method returns."""

    def __init__(self, path: Path | None) -> None:
        """`path` None keeps it in memory. Raises `ConfigError` when the file cannot be opened."""
        super().__init__(path, _SCHEMA, version=VERSION, what=f"the settlement file {path}")

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

    # --- the provider's ---

    def keep_leaf(self, slot: SlotId, leaf: OwnLeaf) -> None:
        self._write(
            "INSERT OR REPLACE INTO leaves VALUES (?, ?, ?, ?, ?, ?, ?)",
            slot.gateway,
            slot.provider,
            slot.model_id,
            slot.epoch,
            leaf.root,
            str(leaf.units),
            b"".join(leaf.proof),
        )

    def leaf(self, slot: SlotId) -> OwnLeaf | None:
        row = self._one(
            "SELECT root, units, proof FROM leaves WHERE gateway = ? AND provider = ? AND model_id = ? AND epoch = ?",
            slot.gateway,
            slot.provider,
            slot.model_id,
            slot.epoch,
        )
        if row is None:
            return None
        proof = bytes(row[2])
        cut = tuple(proof[at : at + HASH_BYTES] for at in range(0, len(proof), HASH_BYTES))
        return OwnLeaf(bytes(row[0]), int(row[1]), cut)

    def settle(self, slot: SlotId) -> None:
        """Nothing can be due for this slot any more."""
        self._write(
            "INSERT OR IGNORE INTO settled VALUES (?, ?, ?, ?)", slot.gateway, slot.provider, slot.model_id, slot.epoch
        )

    def settled(self) -> set[SlotId]:
        with self._lock:
            return {SlotId(*row) for row in self._db.execute("SELECT * FROM settled").fetchall()}

    def _write(self, query: str, *values: object) -> None:
        with self._lock:
            self._db.execute(query, values)

    def _one(self, query: str, *values: object) -> tuple[bytes, ...] | None:
        with self._lock:
            row: tuple[bytes, ...] | None = self._db.execute(query, values).fetchone()
        return row
