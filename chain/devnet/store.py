"""What the embedded chain keeps: state trie nodes, blocks, transactions, receipts and an index of logs, in sqlite.

Everything that a block adds is written in one sqlite transaction, so a process killed at any moment leaves a chain
that ends with a whole block. Trie nodes and code are addressed by their hash: going back to an earlier block means
deleting rows of later blocks, never restoring old values.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chain.errors import DevnetError

FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (hash BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, header BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (
  hash BLOB PRIMARY KEY, block INTEGER NOT NULL, position INTEGER NOT NULL, raw BLOB NOT NULL,
  sender BLOB NOT NULL, status INTEGER NOT NULL, gas_used INTEGER NOT NULL, cumulative_gas INTEGER NOT NULL,
  gas_price TEXT NOT NULL, contract BLOB, bloom BLOB NOT NULL, UNIQUE (block, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (
  block INTEGER NOT NULL, position INTEGER NOT NULL, tx BLOB NOT NULL, tx_position INTEGER NOT NULL,
  address BLOB NOT NULL, topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL,
  PRIMARY KEY (block, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS logs_by_address ON logs (address, topic0, block);
CREATE INDEX IF NOT EXISTS logs_by_tx ON logs (tx);
"""


@dataclass(frozen=True, slots=True)
class LogRow:
    """One log as it is stored; `position` counts within the block."""

    block: int
    position: int
    tx: bytes
    tx_position: int
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class TxRow:
    """One mined transaction and its receipt; `gas_price` is the effective one, in wei."""

    hash: bytes
    block: int
    position: int
    raw: bytes
    sender: bytes
    status: int
    gas_used: int
    cumulative_gas: int
    gas_price: int
    contract: bytes | None
    bloom: bytes


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block: its number, hash and RLP-encoded header."""

    number: int
    hash: bytes
    header: bytes


class Store:
    """One chain in one sqlite file, or in memory. Not thread safe: its owner calls it from one thread at a time.

    Raises `DevnetError` when the file is not one of ours, or another process has it open.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._fresh: dict[bytes, bytes] = {}
        self._cache: dict[bytes, bytes] = {}
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=1)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # survives a killed process; only a power cut loses a block
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            found = self.get_meta("format")
            if found is None:
                self.set_meta("format", str(FORMAT).encode())
            elif found != str(FORMAT).encode():
                raise DevnetError(f"{path} was written by another version of the devnet: give another file")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DevnetError(f"{path} is in use by another devnet") from error
            raise DevnetError(f"cannot use {path} as a devnet's state: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DevnetError(f"{path} is not a devnet's state: {error}") from error

    def close(self) -> None:
        self._db.close()

    # --- trie nodes: the mapping that py-evm reads and writes ---

    def read_node(self, key: bytes) -> bytes:
        """Raises KeyError."""
        found = self._fresh.get(key)
        if found is None:
            found = self._cache.get(key)
        if found is not None:
            return found
        row = self._db.execute("SELECT value FROM nodes WHERE hash = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        if len(self._cache) > 50_000:
            self._cache.clear()
        self._cache[key] = row[0]
        return bytes(row[0])

    def write_node(self, key: bytes, value: bytes) -> None:
        """Kept in memory until the next block is written."""
        self._fresh[key] = value

    # --- blocks ---

    def write_block(
        self,
        block: BlockRow,
        transactions: Sequence[TxRow],
        logs: Iterable[LogRow],
        meta: dict[str, bytes] | None = None,
    ) -> None:
        """Append a block with all that belongs to it, atomically."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany("INSERT OR IGNORE INTO nodes VALUES (?, ?)", self._fresh.items())
            db.execute("INSERT INTO blocks VALUES (?, ?, ?)", (block.number, block.hash, block.header))
            db.executemany(
                "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        tx.hash, tx.block, tx.position, tx.raw, tx.sender, tx.status, tx.gas_used,
                        tx.cumulative_gas, str(tx.gas_price), tx.contract, tx.bloom,
                    )
                    for tx in transactions
                ],
            )  # fmt: skip
            db.executemany(
                "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (log.block, log.position, log.tx, log.tx_position, log.address, *_four(log.topics), log.data)
                    for log in logs
                ],
            )
            for name, value in (meta or {}).items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        except sqlite3.Error:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        self._fresh.clear()

    def drop_blocks_after(self, number: int) -> list[bytes]:
        """Forget every block above `number`; the raw transactions that were in them, oldest first."""
        db = self._db
        dropped = [
            bytes(row[0])
            for row in db.execute(
                "SELECT raw FROM transactions WHERE block > ? ORDER BY block, position", (number,)
            ).fetchall()
        ]
        db.execute("BEGIN IMMEDIATE")
        for table in ("logs", "transactions"):
            db.execute(f"DELETE FROM {table} WHERE block > ?", (number,))
        db.execute("DELETE FROM blocks WHERE number > ?", (number,))
        db.execute("COMMIT")
        return dropped

    def head(self) -> int | None:
        """Number of the last block; None for an empty store."""
        row = self._db.execute("SELECT max(number) FROM blocks").fetchone()
        return None if row[0] is None else int(row[0])

    def block(self, number: int) -> BlockRow | None:
        row = self._db.execute("SELECT number, hash, header FROM blocks WHERE number = ?", (number,)).fetchone()
        return None if row is None else BlockRow(*row)

    def block_by_hash(self, block_hash: bytes) -> BlockRow | None:
        row = self._db.execute("SELECT number, hash, header FROM blocks WHERE hash = ?", (block_hash,)).fetchone()
        return None if row is None else BlockRow(*row)

    def hashes_before(self, number: int) -> Iterator[bytes]:
        """Hashes of the blocks below `number`, newest first, at most 256."""
        rows = self._db.execute("SELECT hash FROM blocks WHERE number < ? ORDER BY number DESC LIMIT 256", (number,))
        for row in rows.fetchall():
            yield bytes(row[0])

    # --- transactions and logs ---

    def transaction(self, tx_hash: bytes) -> TxRow | None:
        row = self._db.execute("SELECT * FROM transactions WHERE hash = ?", (tx_hash,)).fetchone()
        return None if row is None else _tx(row)

    def transactions_in(self, block: int) -> list[TxRow]:
        rows = self._db.execute("SELECT * FROM transactions WHERE block = ? ORDER BY position", (block,))
        return [_tx(row) for row in rows]

    def logs_of(self, tx_hash: bytes) -> list[LogRow]:
        rows = self._db.execute("SELECT * FROM logs WHERE tx = ? ORDER BY block, position", (tx_hash,))
        return [_log(row) for row in rows]

    def logs(
        self,
        first: int,
        last: int,
        addresses: Sequence[bytes] = (),
        topics: Sequence[Sequence[bytes]] = (),
        limit: int = 10_000,
    ) -> list[LogRow]:
        """Logs of blocks `first … last` by any of `addresses` whose i-th topic is any of `topics[i]` (empty: any).

        At most `limit` rows and one more, by which the caller sees that there are too many.
        """
        where, values = ["block BETWEEN ? AND ?"], [first, last]
        arguments: list[int | bytes] = list(values)
        for column, wanted in [("address", addresses), *((f"topic{i}", each) for i, each in enumerate(topics))]:
            if wanted:
                where.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                arguments += wanted
        # A filter by address is far more selective than a range of blocks; sqlite has no statistics to know it.
        index = "INDEXED BY logs_by_address" if addresses else ""
        rows = self._db.execute(
            f"SELECT * FROM logs {index} WHERE {' AND '.join(where)} ORDER BY block, position LIMIT ?",
            (*arguments, limit + 1),
        )
        return [_log(row) for row in rows]

    # --- settings that outlive the process ---

    def get_meta(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_meta(self, name: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _four(topics: tuple[bytes, ...]) -> tuple[bytes | None, ...]:
    return (*topics, None, None, None, None)[:4]


def _tx(row: tuple[object, ...]) -> TxRow:
    values = list(row)
    values[8] = int(str(values[8]))
    return TxRow(*values)  # type: ignore[arg-type]


def _log(row: tuple[bytes | int, ...]) -> LogRow:
    block, position, tx, tx_position, address, t0, t1, t2, t3, data = row
    topics = tuple(topic for topic in (t0, t1, t2, t3) if topic is not None)
    return LogRow(block, position, tx, tx_position, address, topics, data)  # type: ignore[arg-type]
