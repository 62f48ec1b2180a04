"""The newest record of each peer that was looked for by its id, each under a DHT key of its own (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from mesh.discovery.books import Hearing, RecordBook
from mesh.discovery.records import ProviderRecord, decode_record, peer_key

MOST_ANSWERS: Final = 32
"""Different records of one peer that one look checks: those that answer may repeat old ones."""


class PeerBook:
    """What was heard of peers by their id, so that nobody can bring an older record back."""

    def __init__(self, *, longest: float | None = None) -> None:
        """`longest`: seconds ahead of now that a record may expire."""
        self._book = RecordBook[ProviderRecord](longest=math.inf if longest is None else longest)
        self._longest = longest

    def hear_each(self, answers: Mapping[str, Iterable[bytes]], *, now: float) -> tuple[ProviderRecord, ...]:
        """Take in what each peer is said to have signed; the valid records of these peers, ordered by peer id."""
        self._book.expire(now=now)
        found = []
        for peer in sorted(answers):
            hearing = Hearing(self._book, decode_record, peer_key(peer), self._longest)
            for batch in hearing.batches([(peer, data) for data in answers[peer]][:MOST_ANSWERS]):
                hearing.take(batch, now=now)
            record = self._book.record(peer, now=now)
            if record is not None:
                found.append(record)
        return tuple(found)
