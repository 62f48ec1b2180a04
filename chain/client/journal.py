"""The write-ahead journal of transactions, in sqlite: one file a user, safe for several processes at once.

Every change is on disk before the method returns. A session is one client; a lock file that the kernel frees when the
process dies tells the living from the dead, so that a later session can look after what a dead one left.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from chain.client.lifecycle import Attempt, Intent, Seen, State, free_nonce
from chain.errors import JournalError
from chain.transactions import Fees, SignedTransaction

VERSION = 1
BUSY_SECONDS = 10.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS intents (
  id INTEGER PRIMARY KEY AUTOINCREMENT, chain TEXT NOT NULL, key TEXT, session TEXT NOT NULL, sender TEXT NOT NULL,
  "to" BLOB NOT NULL, data BLOB NOT NULL, value TEXT NOT NULL, gas INTEGER NOT NULL, label TEXT NOT NULL,
  state TEXT NOT NULL, nonce INTEGER NOT NULL, created_at REAL NOT NULL,
  mined_hash BLOB, block_hash BLOB, block_number INTEGER
);
CREATE TABLE IF NOT EXISTS attempts (
  hash BLOB PRIMARY KEY, intent INTEGER NOT NULL REFERENCES intents (id), raw BLOB NOT NULL, nonce INTEGER NOT NULL,
  max_fee TEXT NOT NULL, priority_fee TEXT NOT NULL, signed_at REAL NOT NULL, sent_at REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS intents_by_key ON intents (chain, sender, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS intents_by_state ON intents (chain, sender, state);
CREATE INDEX IF NOT EXISTS attempts_by_intent ON attempts (intent);
"""
_LIVE = f"state IN ('{State.SIGNED}', '{State.SENT}', '{State.MINED}')"

Sign = Callable[[int], tuple[SignedTransaction, Fees]]
"""Signs for a nonce."""


class Journal:
    """Intents on one chain. `chain` names it for good: chain id and anchor hash. `path` None keeps it in memory.

    Raises of every method: `JournalError`.
    """

    def __init__(self, path: Path | None, chain: str, *, clock: Callable[[], float] = time.time) -> None:
        self.chain = chain
        self.path = path
        self.session = uuid.uuid4().hex
        self._clock = clock
        self._lock: int | None = None
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._claim_session(path)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=BUSY_SECONDS)
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, VERSION):
                raise JournalError(f"{path} was written by another version: give another journal")
            wrong = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if wrong != "ok":
                raise JournalError(
                    f"the journal {path} is damaged ({wrong}): restore it from a backup (`mesh restore`)"
                )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            if path is not None:
                path.chmod(0o600)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"cannot use the journal {path}: {error}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            self._session_file(self.session).unlink(missing_ok=True)

    # --- writing ---

    def record_signed(
        self,
        *,
        key: str | None,
        sender: str,
        to: bytes,
        data: bytes,
        value: int,
        gas: int,
        label: str,
        floor: int,
        sign: Sign,
    ) -> Intent:
        """Choose a nonce that nobody holds, from `floor` on, sign with it, and write it all down, in one transaction.

        Other processes with the same journal get other nonces.
        """
        now = self._clock()
        with self._transaction():
            nonce = free_nonce(max(floor, self.past_nonce(sender)), self.held_nonces(sender))
            signed, fees = sign(nonce)
            cursor = self._db.execute(
                'INSERT INTO intents (chain, key, session, sender, "to", data, value, gas, label, state, nonce, '
                "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self.chain, key, self.session, sender, to, data, str(value), gas, label, State.SIGNED, nonce, now,
                ),
            )  # fmt: skip
            identifier = int(cursor.lastrowid or 0)
            self._add_attempt(identifier, signed, nonce, fees, now)
        return self.get(identifier)

    def record_replacement(self, intent: Intent, signed: SignedTransaction, fees: Fees) -> Intent:
        """Another transaction with the same nonce and higher fees."""
        with self._transaction():
            self._add_attempt(intent.id, signed, intent.nonce, fees, self._clock())
            self._db.execute("UPDATE intents SET state = ? WHERE id = ?", (State.SIGNED, intent.id))
        return self.get(intent.id)

    def record_renumbered(self, intent: Intent, floor: int, sign: Sign) -> Intent:
        """The same call with another nonce, after a stranger used up the old one."""
        with self._transaction():
            nonce = free_nonce(max(floor, intent.nonce + 1), self.held_nonces(intent.sender))
            signed, fees = sign(nonce)
            self._add_attempt(intent.id, signed, nonce, fees, self._clock())
            self._db.execute("UPDATE intents SET state = ?, nonce = ? WHERE id = ?", (State.SIGNED, nonce, intent.id))
        return self.get(intent.id)

    def record_sent(self, intent: Intent, attempt: Attempt) -> Intent:
        """A node has taken this attempt."""
        with self._transaction():
            self._db.execute("UPDATE attempts SET sent_at = ? WHERE hash = ?", (self._clock(), attempt.hash))
            self._db.execute(
                "UPDATE intents SET state = ? WHERE id = ? AND state = ?", (State.SENT, intent.id, State.SIGNED)
            )
        return self.get(intent.id)

    def record_mined(self, intent: Intent, seen: Seen) -> Intent:
        """It is in a block, not deep enough yet."""
        return self._set_place(intent, State.MINED, seen)

    def record_lost(self, intent: Intent) -> Intent:
        """The block that it was in is gone."""
        with self._transaction():
            self._db.execute(
                "UPDATE intents SET state = ?, mined_hash = NULL, block_hash = NULL, block_number = NULL WHERE id = ?",
                (State.SIGNED, intent.id),
            )
            self._db.execute("UPDATE attempts SET sent_at = NULL WHERE intent = ?", (intent.id,))
        return self.get(intent.id)

    def record_end(self, intent: Intent, seen: Seen) -> Intent:
        """It is deep enough."""
        return self._set_place(intent, State.CONFIRMED if seen.succeeded else State.FAILED, seen)

    def record_refused(self, intent: Intent) -> Intent:
        """No node took it; its nonce is free again."""
        with self._transaction():
            self._db.execute("UPDATE intents SET state = ?, key = NULL WHERE id = ?", (State.REFUSED, intent.id))
        return self.get(intent.id)

    def adopt(self, intents: Sequence[Intent]) -> list[Intent]:
        """Make a dead session's intents ours."""
        with self._transaction():
            self._db.executemany(
                "UPDATE intents SET session = ? WHERE id = ?", [(self.session, intent.id) for intent in intents]
            )
        return [self.get(intent.id) for intent in intents]

    # --- reading ---

    def get(self, identifier: int) -> Intent:
        row = self._one("SELECT * FROM intents WHERE id = ?", (identifier,))
        if row is None:
            raise JournalError(f"the journal has no intent {identifier}")
        return self._intent(row)

    def by_key(self, sender: str, key: str) -> Intent | None:
        """The intent that was given this key."""
        row = self._one("SELECT * FROM intents WHERE chain = ? AND sender = ? AND key = ?", (self.chain, sender, key))
        return None if row is None else self._intent(row)

    def live(self, sender: str) -> list[Intent]:
        """Intents of this session that have not ended, in order of nonces."""
        return self._many(
            f"SELECT * FROM intents WHERE chain = ? AND sender = ? AND session = ? AND {_LIVE} ORDER BY nonce",
            (self.chain, sender, self.session),
        )

    def orphans(self, sender: str) -> list[Intent]:
        """Intents that have not ended and whose session is dead."""
        found = self._many(
            f"SELECT * FROM intents WHERE chain = ? AND sender = ? AND session != ? AND {_LIVE} ORDER BY nonce",
            (self.chain, sender, self.session),
        )
        alive = {session: self._is_alive(session) for session in {intent.session for intent in found}}
        return [intent for intent in found if not alive[intent.session]]

    def history(self, sender: str, limit: int = 100) -> list[Intent]:
        """The newest intents first."""
        return self._many(
            "SELECT * FROM intents WHERE chain = ? AND sender = ? ORDER BY id DESC LIMIT ?",
            (self.chain, sender, limit),
        )

    def held_nonces(self, sender: str) -> set[int]:
        """Nonces of all intents that have not ended, of every session."""
        rows = self._all(f"SELECT nonce FROM intents WHERE chain = ? AND sender = ? AND {_LIVE}", (self.chain, sender))
        return {int(str(row[0])) for row in rows}

    def past_nonce(self, sender: str) -> int:
        """One after the highest nonce that was used on the chain: a node that lags behind may not know it yet."""
        row = self._one(
            "SELECT max(nonce) FROM intents WHERE chain = ? AND sender = ? AND state IN (?, ?)",
            (self.chain, sender, State.CONFIRMED, State.FAILED),
        )
        return 0 if row is None or row[0] is None else int(str(row[0])) + 1

    def ended_with(self, sender: str, nonce: int) -> Intent | None:
        """The intent that was mined for good with this nonce."""
        found = self._many(
            "SELECT * FROM intents WHERE chain = ? AND sender = ? AND nonce = ? AND state IN (?, ?)",
            (self.chain, sender, nonce, State.CONFIRMED, State.FAILED),
        )
        return found[0] if found else None

    # --- inside ---

    def _add_attempt(self, intent: int, signed: SignedTransaction, nonce: int, fees: Fees, now: float) -> None:
        # The same bytes may have been signed for an intent that was refused: they are this one's now.
        self._db.execute(
            "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (signed.hash, intent, signed.raw, nonce, str(fees.max_fee), str(fees.priority_fee), now),
        )

    def _set_place(self, intent: Intent, state: State, seen: Seen) -> Intent:
        with self._transaction():
            self._db.execute(
                "UPDATE intents SET state = ?, mined_hash = ?, block_hash = ?, block_number = ? WHERE id = ?",
                (state, seen.hash, seen.block_hash, seen.block_number, intent.id),
            )
        return self.get(intent.id)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            if self._db.in_transaction:  # an earlier one could not even be undone
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have undone it already
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(f"cannot write the journal {self.path}: {error}") from error

    def _all(self, query: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"cannot read the journal {self.path}: {error}") from error

    def _one(self, query: str, values: tuple[object, ...]) -> tuple[object, ...] | None:
        rows = self._all(query, values)
        return rows[0] if rows else None

    def _many(self, query: str, values: tuple[object, ...]) -> list[Intent]:
        return [self._intent(row) for row in self._all(query, values)]

    def _intent(self, row: tuple[object, ...]) -> Intent:
        rows = self._all("SELECT * FROM attempts WHERE intent = ? ORDER BY rowid", (row[0],))
        attempts = tuple(
            Attempt(hash_, raw, nonce, Fees(int(most), int(tip)), signed_at, sent_at)
            for hash_, _, raw, nonce, most, tip, signed_at, sent_at in _rows(rows)
        )
        (
            identifier, _, key, session, sender, to, data, value, gas, label, state, nonce, created_at,
            mined_hash, block_hash, block_number,
        ) = _row(row)  # fmt: skip
        return Intent(
            id=identifier,
            key=key,
            session=session,
            sender=sender,
            to=to,
            data=data,
            value=int(value),
            gas=gas,
            label=label,
            state=State(state),
            nonce=nonce,
            attempts=attempts,
            created_at=created_at,
            mined_hash=mined_hash,
            block_hash=block_hash,
            block_number=block_number,
        )

    # --- sessions ---

    def _session_file(self, session: str) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.{session}.lock")

    def _claim_session(self, path: Path) -> None:
        self._lock = os.open(self._session_file(self.session), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _is_alive(self, session: str) -> bool:
        """True while the process of that session holds its lock. A dead one's lock file is cleared away."""
        if self.path is None:
            return False
        file = self._session_file(session)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            file.unlink(missing_ok=True)
            return False
        finally:
            os.close(handle)


def _row(row: tuple[object, ...]) -> tuple:  # type: ignore[type-arg]
    """Columns are typed by our own schema."""
    return row


def _rows(rows: list[tuple[object, ...]]) -> list[tuple]:  # type: ignore[type-arg]
    return rows
