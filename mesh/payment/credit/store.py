"""Receipts and vouchers on disk: what a gateway has signed and what a provider holds, safe against a crash anywhere.

A gateway writes a voucher down before it sends it, so that it never forgets a promise; a provider writes it down before
it counts, so that it never loses one. Every write is a transaction, synced to the disk (sqlite, WAL,
`synchronous=FULL`). Only the highest voucher of a slot (gateway, provider, model, epoch) and only the newest receipt of
a pair are kept: both are cumulative. So a file grows with pairs and epochs alone, and `prune` takes old epochs out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mesh.payment.credit.line import GENESIS, Pair, ReceiptClaim
from mesh.payment.database import Database

Side = Literal["issued", "held"]
"""`issued`: we are the gateway. `held`: we are the provider."""

VERSION: Final = 2
KEPT_EPOCHS: Final = 160
"""Slots that nothing depends on any more go after so many epochs; no window of the chain is longer than 128."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS slots (
    side TEXT NOT NULL, gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL, peer TEXT NOT NULL,
    voucher_units INTEGER NOT NULL DEFAULT 0, voucher_signature BLOB,
    receipt_units INTEGER NOT NULL DEFAULT 0, receipt_signature BLOB,
    safe_units INTEGER NOT NULL DEFAULT 0, written_off INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (side, gateway, provider, model_id, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (
    side TEXT NOT NULL, gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL,
    sequence INTEGER NOT NULL, epoch INTEGER NOT NULL, units INTEGER NOT NULL, previous BLOB NOT NULL,
    link BLOB NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (side, gateway, provider, model_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unsigned (
    gateway TEXT NOT NULL, provider TEXT NOT NULL, model_id INTEGER NOT NULL, epoch INTEGER NOT NULL,
    units INTEGER NOT NULL,
    PRIMARY KEY (gateway, provider, model_id, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (
    gateway TEXT NOT NULL, provider TEXT NOT NULL, PRIMARY KEY (gateway, provider)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sealed (gateway TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (gateway, epoch));
"""
_SLOT: Final = (
    "gateway, provider, model_id, epoch, peer, voucher_units, voucher_signature, receipt_units, receipt_signature, "
    "safe_units, written_off"
)
_PAIR: Final = "gateway = ? AND provider = ? AND model_id = ?"


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
    safe_units: int = 0
    """Held: of the voucher's units, those that cannot be lost any more."""
    written_off: int = 0
    """Held: 1 when nothing will come for the rest."""


@dataclass(frozen=True, slots=True)
class LastReceipt:
    """The newest receipt of a pair."""

    sequence: int
    epoch: int
    units: int
    previous: bytes
    link: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Exposure:
    """A held voucher that is not safe yet: `vouched` units, of which `safe` cannot be lost any more."""

    pair: Pair
    epoch: int
    vouched: int
    safe: int
    written_off: bool


class PaymentJournal(Database):
    """Use as a context manager. Every method is one transaction and may be called from any thread."""

    def __init__(self, path: Path | None = None, *, exclusive: bool = False) -> None:
        """`path` None keeps it in memory. Raises as `Database`; every method `StorageUnavailable`."""
        super().__init__(path, _SCHEMA, version=VERSION, what=f"the payment journal {path}", exclusive=exclusive)

    # --- both sides ---

    def slots(self, side: Side, *, epoch: int | None = None, pair: Pair | None = None) -> list[Slot]:
        """What is written down, by epoch, then provider and gateway."""
        if epoch is None:
            return self._slots(["side = ?"], [side], pair)
        return self._slots(["side = ?", "epoch = ?"], [side, epoch], pair)

    def _slots(self, where: Sequence[str], values: Sequence[Any], pair: Pair | None) -> list[Slot]:
        if pair is not None:
            where, values = [*where, _PAIR], [*values, *_key(pair)]
        query = f"SELECT {_SLOT} FROM slots WHERE {' AND '.join(where)} ORDER BY epoch, provider, gateway, model_id"
        with self._reading() as db:
            rows = db.execute(query, values).fetchall()
        return [Slot(Pair(*row[:3]), *row[3:]) for row in rows]

    def last_receipt(self, side: Side, pair: Pair) -> LastReceipt | None:
        """The newest receipt of a pair."""
        query = (
            "SELECT sequence, epoch, units, previous, link, signature FROM receipts WHERE side = ? AND gateway = ? "
            "AND provider = ? AND model_id = ?"
        )
        with self._reading() as db:
            row = db.execute(query, (side, *_key(pair))).fetchone()
        return None if row is None else LastReceipt(*row)

    def record_claim(
        self,
        side: Side,
        claim: ReceiptClaim,
        peer: str,
        signature: bytes,
        *,
        unsigned: Mapping[int, int] | None = None,
    ) -> None:
        """As `record_receipt`."""
        self.record_receipt(
            side,
            claim.pair,
            peer,
            claim.epoch,
            claim.sequence,
            claim.units,
            claim.link,
            signature,
            previous=claim.previous,
            unsigned=unsigned,
        )

    def record_receipt(
        self,
        side: Side,
        pair: Pair,
        peer: str,
        epoch: int,
        sequence: int,
        units: int,
        link: bytes,
        signature: bytes,
        *,
        previous: bytes = GENESIS,
        unsigned: Mapping[int, int] | None = None,
    ) -> None:
        """Write down a receipt: before sending it (provider), before signing for it (gateway).

        `unsigned`, of a gateway, replaces what it has counted and not signed for yet.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT INTO slots (side, gateway, provider, model_id, epoch, peer, receipt_units, receipt_signature) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET peer = excluded.peer, "
                "receipt_units = excluded.receipt_units, receipt_signature = excluded.receipt_signature "
                "WHERE excluded.receipt_units >= slots.receipt_units",
                (side, *_key(pair), epoch, peer, units, signature),
            )
            db.execute(
                "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (side, *_key(pair), sequence, epoch, units, previous, link, signature),
            )
            if unsigned is not None:
                _replace_unsigned(db, pair, unsigned)

    def record_voucher(
        self,
        side: Side,
        pair: Pair,
        peer: str,
        epoch: int,
        units: int,
        signature: bytes,
        *,
        unsigned: Mapping[int, int] | None = None,
    ) -> bool:
        """Write down a voucher; False when one that is as high is there already. Raises `Sealed` (gateway).

        `unsigned`, of a gateway, replaces what it has counted and not signed for yet.
        """
        with self._transaction() as db:
            if side == "issued" and _is_sealed(db, pair.gateway, epoch):
                raise Sealed(f"epoch {epoch} is being settled")
            known = db.execute(
                f"SELECT voucher_units FROM slots WHERE side = ? AND {_PAIR} AND epoch = ?", (side, *_key(pair), epoch)
            ).fetchone()
            if known is not None and known[0] >= units:
                return False
            db.execute(
                "INSERT INTO slots (side, gateway, provider, model_id, epoch, peer, voucher_units, voucher_signature) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET peer = excluded.peer, "
                "voucher_units = excluded.voucher_units, voucher_signature = excluded.voucher_signature",
                (side, *_key(pair), epoch, peer, units, signature),
            )
            if unsigned is not None:
                _replace_unsigned(db, pair, unsigned)
        return True

    def prune(self, before: int) -> None:
        """Forget epochs below `before`: what was signed in them, and those held vouchers that are safe or given up."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM slots WHERE epoch < ? AND (side = 'issued' OR written_off OR safe_units >= voucher_units)",
                (before,),
            )
            db.execute("DELETE FROM sealed WHERE epoch < ?", (before,))

    # --- what a provider holds ---

    def exposures(self, pair: Pair | None = None) -> list[Exposure]:
        """The held vouchers that are not safe, by epoch; of one pair, or of all."""
        slots = self._slots(["side = 'held'", "voucher_units > safe_units"], [], pair)
        return [Exposure(s.pair, s.epoch, s.voucher_units, s.safe_units, bool(s.written_off)) for s in slots]

    def mark_safe(self, pair: Pair, epoch: int, units: int | None = None) -> None:
        """The first `units` of a held voucher cannot be lost any more; None means all of it. It only ever grows.

        They are in a posted checkpoint of which we hold a checked proof, or compensated.
        """
        self._mark("safe_units = MAX(safe_units, MIN(voucher_units, COALESCE(?, voucher_units)))", [units], pair, epoch)

    def write_off(self, pair: Pair, epoch: int) -> None:
        """Nothing will come for what is not safe of a held voucher: its windows are over, or it is not worth a bond."""
        self._mark("written_off = 1", [], pair, epoch)

    def _mark(self, change: str, values: Sequence[Any], pair: Pair, epoch: int) -> None:
        query = f"UPDATE slots SET {change} WHERE side = 'held' AND {_PAIR} AND epoch = ?"
        with self._transaction() as db:
            db.execute(query, (*values, *_key(pair), epoch))

    # --- what a gateway has signed ---

    def unsigned(self, pair: Pair) -> dict[int, int]:
        """Units by epoch that tokens bore out when the last receipt or voucher of the pair was written down."""
        with self._reading() as db:
            rows = db.execute(f"SELECT epoch, units FROM unsigned WHERE {_PAIR}", _key(pair)).fetchall()
        return dict(rows)

    def signed(self, gateway: str, first_epoch: int) -> dict[Pair, dict[int, int]]:
        """Units that the gateway has signed for, by pair and epoch, from `first_epoch` on."""
        found: dict[Pair, dict[int, int]] = {}
        where = ["side = 'issued'", "gateway = ?", "epoch >= ?", "voucher_units > 0"]
        for slot in self._slots(where, [gateway, first_epoch], None):
            found.setdefault(slot.pair, {})[slot.epoch] = slot.voucher_units
        return found

    def seal(self, gateway: str, epoch: int) -> list[Slot]:
        """Sign nothing more for `epoch`; what was signed for it. May be repeated."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO sealed VALUES (?, ?)", (gateway, epoch))
        return [
            slot for slot in self.slots("issued", epoch=epoch) if slot.pair.gateway == gateway and slot.voucher_units
        ]

    def is_sealed(self, gateway: str, epoch: int) -> bool:
        with self._reading() as db:
            return _is_sealed(db, gateway, epoch)

    def note(self, gateway: str, provider: str) -> None:
        """The provider says that the gateway's line for it is too short."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO notices VALUES (?, ?)", (gateway, provider))

    def notices(self, gateway: str) -> frozenset[str]:
        """Ids of the providers that say so."""
        with self._reading() as db:
            rows = db.execute("SELECT provider FROM notices WHERE gateway = ?", (gateway,)).fetchall()
        return frozenset(row[0] for row in rows)

    def forget_notice(self, gateway: str, provider: str) -> None:
        """The line has been funded."""
        with self._transaction() as db:
            db.execute("DELETE FROM notices WHERE gateway = ? AND provider = ?", (gateway, provider))


def _key(pair: Pair) -> tuple[str, str, int]:
    return pair.gateway, pair.provider, pair.model_id


def _is_sealed(db: sqlite3.Connection, gateway: str, epoch: int) -> bool:
    query = "SELECT 1 FROM sealed WHERE gateway = ? AND epoch = ?"
    return db.execute(query, (gateway, epoch)).fetchone() is not None


def _replace_unsigned(db: sqlite3.Connection, pair: Pair, unsigned: Mapping[int, int]) -> None:
    db.execute(f"DELETE FROM unsigned WHERE {_PAIR}", _key(pair))
    rows = [(*_key(pair), epoch, units) for epoch, units in unsigned.items() if units]
    db.executemany("INSERT INTO unsigned VALUES (?, ?, ?, ?, ?)", rows)
