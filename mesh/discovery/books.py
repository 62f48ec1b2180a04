"""The newest records under each DHT key, as whoever reads them from others keeps them (pure)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mesh.discovery.records import RecordBook, decode_record
from mesh.errors import BadRecord

log = logging.getLogger(__name__)


class RecordBooks:
    """What was seen under each DHT key, so that nobody can bring an older record back. Bounded; time is an argument."""

    def __init__(self, keys: int = 256) -> None:
        """`keys` are remembered at most; one more is read as if for the first time."""
        self._keys = keys
        self._books: dict[bytes, RecordBook] = {}

    def hear(
        self, key: bytes, entries: Iterable[tuple[str, bytes]], *, now: float
    ) -> tuple[tuple[tuple[str, bytes], ...], RecordBook]:
        """Take in what peers are said to have signed (peer, bytes): the entries that hold, withdrawals among them, and
        the book of all that was ever seen under the key.
        """
        book, held = self._book(key, now), []
        for peer, data in entries:
            try:
                record = decode_record(data, peer=peer, key=key, now=now)
            except BadRecord as error:
                log.debug("a record was dropped: %s", error)
                continue
            if book.offer(record, now=now):
                held.append((peer, data))
        book.expire(now=now)
        return tuple(held), book

    def _book(self, key: bytes, now: float) -> RecordBook:
        book = self._books.get(key)
        if book is None:
            if len(self._books) >= self._keys:
                for old in list(self._books):
                    self._books[old].expire(now=now)
                    if not len(self._books[old]):
                        del self._books[old]
            if len(self._books) >= self._keys:
                return RecordBook()
            book = self._books[key] = RecordBook()
        return book
