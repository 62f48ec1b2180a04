"""The newest records of peers, as those that read them from others keep them (pure)."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from mesh.discovery.places import Draw, Places
from mesh.errors import BadRecord

log = logging.getLogger(__name__)

MOST_FAMILIAR: Final = 512
"""Changed records of peers known before whose signatures one look checks …"""
MOST_STRANGERS: Final = 1024
"""… and records of peers never seen, chosen at random of all that were heard: more would hold up everything else."""
BATCH: Final = 128
"""Records checked without a pause."""


class Announced(Protocol):
    """What a peer signed of itself: a record or an index entry."""

    @property
    def peer(self) -> str:
        """Its id."""

    @property
    def sequence(self) -> int:
        """Grows with each announcement."""

    @property
    def expires(self) -> float:
        """Unix time (seconds)."""

    @property
    def gone(self) -> bool:
        """Whether the peer withdraws."""


R = TypeVar("R", bound=Announced)
R_co = TypeVar("R_co", bound=Announced, covariant=True)


class Decode(Protocol[R_co]):
    """Reads and checks what a peer is said to have announced under a DHT key. Raises `BadRecord`."""

    def __call__(self, data: bytes, *, peer: str, key: bytes, now: float) -> R_co: ...


class RecordBook(Generic[R]):
    """The newest record of each peer. Time comes as an argument (Unix time, seconds)."""

    def __init__(self, capacity: int = 4096, draw: Draw | None = None, *, longest: float = math.inf) -> None:
        """`longest`: seconds ahead of now that a record may expire; beyond that our clock was wrong then."""
        self._longest = longest
        self._places = Places[str](capacity, draw or Draw(), str.encode)
        self._records: dict[str, R] = {}
        self._signed: dict[str, bytes] = {}
        self._shown: dict[str, int] = {}
        """How often `some` has chosen a peer, while there were too many."""

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, peer: str) -> bool:
        return peer in self._records

    def has(self, peer: str, data: bytes) -> bool:
        """Whether this is, byte for byte, what we hold of the peer."""
        return self._signed.get(peer) == data

    def offer(self, record: R, *, now: float, data: bytes = b"") -> bool:
        """Take in a decoded record (`data`: as it was signed); True when it is in the book afterwards.

        Refused are: an expired one, a lower sequence number than the one we have, the same number with other
        contents (the peer contradicts itself), and newcomers that draw no place while the book is full.
        """
        if record.expires <= now:
            return False
        known = self._records.get(record.peer)
        if known is not None and self._lives(known, now):
            if record.sequence <= known.sequence:
                return record == known
        elif known is None and self._places.full:
            self.expire(now=now)
            losers = self._places.losers(record.peer, 1, now)
            if losers is None:
                return False
            for peer in losers:
                self._forget(peer)
        self._places.take(record.peer, 1, record.expires, now)
        self._records[record.peer] = record
        self._signed[record.peer] = data
        return True

    def record(self, peer: str, *, now: float) -> R | None:
        """The peer's valid record, unless it withdrew."""
        record = self._records.get(peer)
        return None if record is None or record.gone or not self._lives(record, now) else record

    def expire(self, *, now: float) -> tuple[R, ...]:
        """Drop and return the records that have expired."""
        expired = tuple(record for record in self._records.values() if not self._lives(record, now))
        for record in expired:
            self._forget(record.peer)
        return expired

    def records(self, *, now: float) -> tuple[R, ...]:
        """The records that are valid now, without those that withdrew, ordered by peer id."""
        valid = (r for r in self._records.values() if self._lives(r, now) and not r.gone)
        return tuple(sorted(valid, key=lambda record: record.peer))

    def some(self, most: int, draw: Draw, *, now: float) -> tuple[R, ...]:
        """`records`, but `most` at most: half of them those that were here first, then those returned least often.

        So what is in use stays in sight, and every newcomer comes into sight soon, however many there are.
        """
        valid = self.records(now=now)
        if len(valid) <= most:
            return valid
        first = sorted(valid, key=lambda record: self._places.since(record.peer))[: most // 2]
        chosen = {record.peer: record for record in first}
        turn = draw.turn(now)
        drawn = sorted(
            (record for record in valid if record.peer not in chosen),
            key=lambda record: (self._shown.get(record.peer, 0), draw.number(record.peer.encode(), turn)),
        )
        for record in drawn[: most - len(chosen)]:
            self._shown[record.peer] = self._shown.get(record.peer, 0) + 1
            chosen[record.peer] = record
        return tuple(sorted(chosen.values(), key=lambda record: record.peer))

    def _lives(self, record: R, now: float) -> bool:
        return now < record.expires <= now + self._longest

    def _forget(self, peer: str) -> None:
        self._places.drop(peer)
        del self._records[peer], self._signed[peer]
        self._shown.pop(peer, None)


class RecordBooks(Generic[R]):
    """What was seen under each DHT key, so that nobody can bring an older record back. Bounded; time is an argument."""

    def __init__(self, decode: Decode[R], keys: int = 256, *, longest: float | None = None) -> None:
        """`keys` are remembered at most; one more is read as if for the first time. `longest`: seconds ahead of now
        that a record may expire, where that is less than `decode` allows."""
        self._decode = decode
        self._keys = keys
        self._longest = math.inf if longest is None else longest
        self._books: dict[bytes, RecordBook[R]] = {}

    def hear(
        self, key: bytes, entries: Iterable[tuple[str, bytes]], *, now: float
    ) -> tuple[tuple[tuple[str, bytes], ...], RecordBook[R]]:
        """Take in what peers are said to have signed (peer, bytes): the entries that hold, withdrawals among them, and
        the book of all that was ever seen under the key.

        Of very many entries only some are checked; see `MOST_FAMILIAR` and `MOST_STRANGERS`.
        """
        hearing = Hearing(self.book(key, now=now), self._decode, key, self._longest)
        for batch in hearing.batches(entries):
            hearing.take(batch, now=now)
        return tuple(hearing.held), hearing.book

    def hearing(self, key: bytes, *, now: float) -> Hearing[R]:
        """The same, step by step, for those that must do something else in between."""
        return Hearing(self.book(key, now=now), self._decode, key, self._longest)

    def book(self, key: bytes, *, now: float) -> RecordBook[R]:
        """The book of a key, without what has expired."""
        book = self._books.get(key)
        if book is None:
            if len(self._books) >= self._keys:
                for old in list(self._books):
                    self._books[old].expire(now=now)
                    if not len(self._books[old]):
                        del self._books[old]
            if len(self._books) >= self._keys:
                return RecordBook(longest=self._longest)
            book = self._books[key] = RecordBook(longest=self._longest)
        book.expire(now=now)
        return book


class Hearing(Generic[R]):
    """One look's entries, on their way into a book."""

    def __init__(self, book: RecordBook[R], decode: Decode[R], key: bytes, longest: float | None) -> None:
        self.book = book
        self.held: list[tuple[str, bytes]] = []
        self._decode = decode
        self._key = key
        self._longest = longest

    def batches(self, entries: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
        """Which entries to take, in pieces: all that we hold already, and not too many others."""
        familiar, strangers = list[tuple[str, bytes]](), list[tuple[str, bytes]]()
        for peer, data in dict.fromkeys(entries):
            if self.book.has(peer, data):
                self.held.append((peer, data))
            else:
                (familiar if peer in self.book else strangers).append((peer, data))
        chosen = _some(familiar, MOST_FAMILIAR) + _some(strangers, MOST_STRANGERS)
        for start in range(0, len(chosen), BATCH):
            yield chosen[start : start + BATCH]

    def take(self, batch: Iterable[tuple[str, bytes]], *, now: float) -> None:
        """Check entries and note those that hold."""
        for peer, data in batch:
            try:
                record = self._decode(data, peer=peer, key=self._key, now=now)
                if self._longest is not None and record.expires > now + self._longest:
                    raise BadRecord(f"the record expires {record.expires - now:+.1f} s from now", peer=peer)
            except BadRecord as error:
                log.debug("a record was dropped: %s", error)
                continue
            if self.book.offer(record, now=now, data=data):
                self.held.append((peer, data))


def _some(items: list[tuple[str, bytes]], most: int) -> list[tuple[str, bytes]]:
    return items if len(items) <= most else random.sample(items, most)
