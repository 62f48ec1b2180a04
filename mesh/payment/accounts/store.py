"""Developers' accounts on a gateway's disk: keys, vouchers and charges, safe against a crash anywhere.

A voucher is written down before it counts; a charge before anything is handed out for it; both absolutely, so that a
write repeated after a crash changes nothing. Keys are kept as sha256 only. Every write is a transaction, synced to the
disk (sqlite, WAL, `synchronous=FULL`). One process at a time has the file, because it also counts in memory.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from chain.primitives import Address, Bytes32
from chain.vouchers import PaymentVoucher
from mesh.errors import ConfigError, StorageUnavailable
from mesh.payment.accounts.balance import Account
from mesh.payment.accounts.resume_tickets import KEY_BYTES
from mesh.payment.database import Database

VERSION: Final = 1
KEPT_CHARGES: Final = 100_000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS gateway (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS accounts (
    payer BLOB PRIMARY KEY, charged TEXT NOT NULL, redeemed TEXT NOT NULL,
    voucher TEXT NOT NULL DEFAULT '0', signature BLOB, gateway BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    hash BLOB PRIMARY KEY, payer BLOB NOT NULL REFERENCES accounts (payer), created INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_payer ON keys (payer);
CREATE TABLE IF NOT EXISTS key_requests (digest BLOB PRIMARY KEY, issued INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ticket_key (one INTEGER PRIMARY KEY CHECK (one = 1), key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS resumed (request BLOB PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS charges (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, payer BLOB NOT NULL, amount TEXT NOT NULL,
    begun INTEGER NOT NULL, done INTEGER NOT NULL, model TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS charges_running ON charges (done) WHERE done = 0;
"""


class KeyRefused(Exception):
    """No key is made: the request was used before, or the account has as many keys as it may."""


class StoredVoucher(NamedTuple):
    """A payer's highest voucher. `highest` is its amount in wei."""

    payer: Address
    voucher: PaymentVoucher
    signature: bytes
    highest: int


@dataclass(frozen=True, slots=True)
class ChargeRecord:
    """One request that has ended or runs. `amount` in wei, `at` Unix time in seconds."""

    id: str
    payer: Address
    amount: int
    done: bool
    model: str
    at: int


class AccountStore(Database):
    """Use as a context manager. Every method is one transaction and may be called from any thread."""

    def __init__(self, path: Path | None, gateway: str) -> None:
        """`path` None keeps it in memory; `gateway` is the id whose accounts these are, for good.

        Requests that ran when the last process died are ended here. Raises `ConfigError` when the file cannot be
        opened, belongs to another gateway, or is in use. Every method raises `StorageUnavailable`.
        """
        self.path = path
        super().__init__(path, _SCHEMA, version=VERSION, what=f"the file of accounts {path}", exclusive=True)
        try:
            with self._transaction() as db:
                db.execute("INSERT OR IGNORE INTO gateway VALUES (1, ?)", (gateway,))
                owner = db.execute("SELECT name FROM gateway").fetchone()[0]
            if owner != gateway:
                raise ConfigError(f"{path} holds the accounts of the gateway {owner!r}, not of {gateway!r}")
            self._recover()
        except StorageUnavailable as error:
            self.close()
            raise ConfigError(str(error)) from error
        except ConfigError:
            self.close()
            raise

    # --- accounts and keys ---

    def account(self, payer: Address) -> Account | None:
        """The account as it was last written down; what backs it must be asked of the chain."""
        with self._reading() as db:
            row = db.execute("SELECT voucher, charged FROM accounts WHERE payer = ?", (payer,)).fetchone()
        return None if row is None else Account(payer, signed=int(row[0]), charged=int(row[1]))

    def payers(self) -> list[Address]:
        with self._reading() as db:
            return [bytes(row[0]) for row in db.execute("SELECT payer FROM accounts ORDER BY payer")]

    def payer_of(self, key_hash: bytes) -> Address | None:
        """Whose key this is."""
        with self._reading() as db:
            row = db.execute("SELECT payer FROM keys WHERE hash = ?", (key_hash,)).fetchone()
        return None if row is None else bytes(row[0])

    def is_used(self, request: Bytes32) -> bool:
        """Whether a key was made for the signed request with this digest."""
        with self._reading() as db:
            return bool(db.execute("SELECT 1 FROM key_requests WHERE digest = ?", (request,)).fetchone())

    def add_key(
        self, key_hash: bytes, payer: Address, request: Bytes32, *, issued: int, now: int, redeemed: int, most: int
    ) -> None:
        """Add a key, and the account if it is new. Raises `KeyRefused`.

        `request` is the digest of the signed request, good for one key; `issued` its date. A new account begins at
        `redeemed`, what the chain has paid us for it already: after the loss of this file, an old voucher is worth
        nothing again.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM key_requests WHERE issued < ?", (now - 86_400,))
            if db.execute("SELECT 1 FROM key_requests WHERE digest = ?", (request,)).fetchone():
                raise KeyRefused("this request was used before: sign a new one")
            if db.execute("SELECT count(*) FROM keys WHERE payer = ?", (payer,)).fetchone()[0] >= most:
                raise KeyRefused(f"this account has {most} keys already: revoke one")
            db.execute("INSERT INTO key_requests VALUES (?, ?)", (request, issued))
            db.execute(
                "INSERT OR IGNORE INTO accounts (payer, charged, redeemed, voucher) VALUES (?, ?, ?, ?)",
                (payer, str(redeemed), str(redeemed), str(redeemed)),
            )
            db.execute("INSERT INTO keys VALUES (?, ?, ?)", (key_hash, payer, now))

    def revoke_key(self, key_hash: bytes) -> bool:
        """Forget a key; False when there is none."""
        with self._transaction() as db:
            return db.execute("DELETE FROM keys WHERE hash = ?", (key_hash,)).rowcount > 0

    # --- vouchers ---

    def put_voucher(self, voucher: PaymentVoucher, signature: bytes) -> bool:
        """Write down a voucher; False, and nothing changes, unless it is above what the account's last one says."""
        with self._transaction() as db:
            row = db.execute("SELECT voucher FROM accounts WHERE payer = ?", (voucher.payer,)).fetchone()
            if row is None or int(row[0]) >= voucher.cumulative_amount:
                return False
            db.execute(
                "UPDATE accounts SET voucher = ?, signature = ?, gateway = ? WHERE payer = ?",
                (str(voucher.cumulative_amount), signature, voucher.gateway, voucher.payer),
            )
        return True

    def signature(self, payer: Address) -> bytes | None:
        """Of the payer's highest voucher; None where there is none yet."""
        with self._reading() as db:
            row = db.execute("SELECT signature FROM accounts WHERE payer = ?", (payer,)).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def vouchers(self, *, due: bool = False) -> list[StoredVoucher]:
        """Every payer's highest voucher; with `due`, only those of which a part is not marked redeemed."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT payer, gateway, voucher, signature, redeemed FROM accounts WHERE signature IS NOT NULL "
                "ORDER BY payer"
            ).fetchall()
        return [
            StoredVoucher(
                bytes(payer), PaymentVoucher(bytes(payer), bytes(gateway), int(amount)), bytes(sig), int(amount)
            )
            for payer, gateway, amount, sig, redeemed in rows
            if not due or int(amount) > int(redeemed)
        ]

    def redeemed(self, payer: Address) -> int:
        """Wei that are marked as paid to us by the escrow."""
        with self._reading() as db:
            row = db.execute("SELECT redeemed FROM accounts WHERE payer = ?", (payer,)).fetchone()
        return 0 if row is None else int(row[0])

    def mark_redeemed(self, payer: Address, amount: int) -> None:
        """The escrow has paid us `amount` wei for this payer in all (`Escrow.redeemed`); may be repeated."""
        with self._transaction() as db:
            row = db.execute("SELECT redeemed FROM accounts WHERE payer = ?", (payer,)).fetchone()
            if row is not None and int(row[0]) < amount:
                db.execute("UPDATE accounts SET redeemed = ? WHERE payer = ?", (str(amount), payer))

    def catch_up(self, payer: Address, redeemed: int) -> None:
        """The escrow has paid us more than our books say was signed: they are older, and that much is used up."""
        with self._transaction() as db:
            row = db.execute("SELECT voucher, charged FROM accounts WHERE payer = ?", (payer,)).fetchone()
            if row is not None and int(row[0]) < redeemed:
                db.execute(
                    "UPDATE accounts SET voucher = ?, signature = NULL, charged = ?, redeemed = ? WHERE payer = ?",
                    (str(redeemed), str(max(int(row[1]), redeemed)), str(redeemed), payer),
                )

    # --- answers that are resumed ---

    def ticket_key(self) -> bytes:
        """The key of our resume tickets, made when it is first asked for."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO ticket_key VALUES (1, ?)", (secrets.token_bytes(KEY_BYTES),))
            return bytes(db.execute("SELECT key FROM ticket_key").fetchone()[0])

    def resume(self, request: bytes, *, expires: int, now: int) -> bool:
        """A request that failed is resumed; False where it was before."""
        with self._transaction() as db:
            db.execute("DELETE FROM resumed WHERE expires < ?", (now,))
            return db.execute("INSERT OR IGNORE INTO resumed VALUES (?, ?)", (request, expires)).rowcount > 0

    def not_resumed(self, request: bytes) -> None:
        """It came to nothing: the request may be resumed again."""
        with self._transaction() as db:
            db.execute("DELETE FROM resumed WHERE request = ?", (request,))

    # --- charges ---

    def write_charge(self, identifier: str, payer: Address, amount: int, *, begun: bool, model: str, now: int) -> None:
        """A running request is charged `amount` wei in all. Before anything that this pays for is handed out.

        `begun` says that something is handed out from now on: after a crash such a charge stands, any other is undone.
        """
        self._put_charge(identifier, payer, amount, begun=begun, done=False, model=model, now=now)

    def settle_charge(self, identifier: str, payer: Address, amount: int, *, model: str, now: int) -> None:
        """The request has ended and costs `amount` wei. A request that was never charged leaves no trace at 0."""
        self._put_charge(identifier, payer, amount, begun=True, done=True, model=model, now=now)

    def charges(self, payer: Address | None = None, *, newest: int = 1000) -> list[ChargeRecord]:
        """The newest charges first, of one payer or all."""
        where, values = ("WHERE payer = ?", [payer]) if payer is not None else ("", [])
        query = f"SELECT id, payer, amount, done, model, at FROM charges {where} ORDER BY number DESC LIMIT ?"
        with self._reading() as db:
            rows = db.execute(query, (*values, newest)).fetchall()
        return [ChargeRecord(row[0], bytes(row[1]), int(row[2]), bool(row[3]), row[4], row[5]) for row in rows]

    def charged_total(self) -> int:
        """Wei charged to all accounts, ever, requests that run included."""
        with self._reading() as db:
            return sum(int(row[0]) for row in db.execute("SELECT charged FROM accounts"))

    # --- inside ---

    def _put_charge(
        self, identifier: str, payer: Address, amount: int, *, begun: bool, done: bool, model: str, now: int
    ) -> None:
        with self._transaction() as db:
            row = db.execute("SELECT amount, done FROM charges WHERE id = ?", (identifier,)).fetchone()
            if row is None and done and not amount:
                return
            if row is not None and row[1]:
                return  # settled: whatever comes late is older
            before = 0 if row is None else int(row[0])
            db.execute(
                "INSERT INTO charges (id, payer, amount, begun, done, model, at) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, begun = begun OR excluded.begun, "
                "done = excluded.done, at = excluded.at",
                (identifier, payer, str(amount), begun, done, model, now),
            )
            self._add_charged(db, payer, amount - before)
            if row is None:
                last = db.execute("SELECT max(number) FROM charges").fetchone()[0]
                db.execute("DELETE FROM charges WHERE done = 1 AND number <= ?", (last - KEPT_CHARGES,))

    def _add_charged(self, db: sqlite3.Connection, payer: Address, more: int) -> None:
        charged = int(db.execute("SELECT charged FROM accounts WHERE payer = ?", (payer,)).fetchone()[0])
        db.execute("UPDATE accounts SET charged = ? WHERE payer = ?", (str(charged + more), payer))

    def _recover(self) -> None:
        """End what ran when the last process died: what had begun stands, the rest is given back."""
        with self._transaction() as db:
            running = db.execute("SELECT id, payer, amount, begun FROM charges WHERE done = 0").fetchall()
            for identifier, payer, amount, begun in running:
                if not begun:
                    self._add_charged(db, payer, -int(amount))
                db.execute(
                    "UPDATE charges SET done = 1, amount = ? WHERE id = ?", (amount if begun else "0", identifier)
                )
