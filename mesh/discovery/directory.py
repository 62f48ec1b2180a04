"""The `Directory` port, where providers announce themselves and are found, and its in-memory twin."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Protocol, Self

from mesh.discovery.books import RecordBook
from mesh.discovery.index import (
    INDEX_KEYS,
    IndexEntry,
    decode_entry,
    encode_entry,
    index_entry,
    index_key,
    listed_models,
)
from mesh.discovery.places import Draw
from mesh.discovery.records import (
    ModelKey,
    ProviderRecord,
    Stamper,
    decode_record,
    encode_record,
    peer_key,
    provider_key,
    withdrawn,
)
from mesh.errors import BadRecord
from mesh.identity import Identity
from mesh.wire.records import SignedRecord

Clock = Callable[[], float]
"""Unix time in seconds."""

LIFETIME = 30.0
"""Seconds that an announcement lives; announce again every third of it."""
MAX_PROVIDERS: Final = 1024
"""Records that one look at a model returns at most (see `RecordBook.some`)."""
MAX_PEERS_ASKED: Final = 256
"""Peers whose own records one call of `records_of_peers` looks for."""

_PEER_ID: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{52}\Z")


class Directory(Protocol):
    """Who provides what right now. What it returns is signed by the providers, checked and not expired.

    It is a hint all the same: a provider may be gone since, or lie about itself. A node has one announcement
    at a time: for one model and one span. Every method may raise `PeerTimeout` or `PeerUnreachable`.
    """

    async def announce(self, record: ProviderRecord) -> ProviderRecord:
        """Publish our record, in place of our last one; returns it with its sequence number and expiry.

        Call it again well before it expires (every 10 s), and whenever the state changes.
        """

    async def withdraw(self) -> None:
        """Take our announcement back, visibly for everybody at once. Without one it does nothing."""

    async def providers(self, model: ModelKey) -> tuple[ProviderRecord, ...]:
        """The providers of a model that have not withdrawn, ordered by peer id.

        Of more than `MAX_PROVIDERS`, half are those seen first, and the others those returned least often.
        """

    async def models(self, name: str | None = None) -> tuple[ModelKey, ...]:
        """The models that are listed, or those of one name, ordered by name and digest.

        Of very many only some, another choice every few seconds (`mesh.discovery.index.listed_models`): ask for the
        name where you know it.
        """

    async def records_of_peers(self, peers: Iterable[str]) -> tuple[ProviderRecord, ...]:
        """What these peers announce of themselves, ordered by peer id; those of which nothing is found, or that have
        withdrawn, are left out.

        Each has a DHT key of its own, which strangers' records cannot crowd. Of more than `MAX_PEERS_ASKED` peers a
        random choice is looked for; what is found in time (about 10 s) is returned.
        """


class Announcer:
    """What every directory does to publish: stamps, signs, and names the keys (no input or output)."""

    def __init__(self, identity: Identity, *, lifetime: float = LIFETIME) -> None:
        self._identity = identity
        self._stamper = Stamper(lifetime)
        self.current: ProviderRecord | None = None

    def publish(self, record: ProviderRecord, *, now: float) -> tuple[ProviderRecord, list[tuple[bytes, bytes, float]]]:
        """The stamped record, and what to store: (key, signed record, expiry)."""
        entries = []
        if self.current is not None and self.current.model_key != record.model_key:
            gone = self._stamper.stamp(withdrawn(self.current), now=now)
            entries.append(self._signed(gone, provider_key(gone.model_key)))
        stamped = self._stamper.stamp(record, now=now)
        self.current = stamped
        return stamped, entries + self._everywhere(stamped)

    def withdraw(self, *, now: float) -> list[tuple[bytes, bytes, float]]:
        """What to store in order to take the current announcement back; nothing where there is none."""
        if self.current is None:
            return []
        record, self.current = self.current, None
        return self._everywhere(self._stamper.stamp(withdrawn(record), now=now))

    def _everywhere(self, record: ProviderRecord) -> list[tuple[bytes, bytes, float]]:
        """A record under its model's key, in the index, and under its peer's own key."""
        return [
            self._signed(record, provider_key(record.model_key)),
            (index_key(record.peer), encode_entry(index_entry(record), self._identity), record.expires),
            self._signed(record, peer_key(record.peer)),
        ]

    def _signed(self, record: ProviderRecord, key: bytes) -> tuple[bytes, bytes, float]:
        return key, encode_record(record, self._identity, key=key), record.expires


def to_ask(peers: Iterable[str]) -> tuple[str, ...]:
    """Which peers `records_of_peers` looks for: each id once, ordered, `MAX_PEERS_ASKED` of them at most."""
    wanted = tuple(dict.fromkeys(peer for peer in peers if _PEER_ID.match(peer)))
    return tuple(sorted(wanted if len(wanted) <= MAX_PEERS_ASKED else random.sample(wanted, MAX_PEERS_ASKED)))


class MemoryBoard:
    """The shared place where the nodes of one in-memory network store their records, as bytes."""

    def __init__(self, *, clock: Clock = time.time) -> None:
        self.clock = clock
        self.draw = Draw()
        self._books: dict[bytes, RecordBook[ProviderRecord]] = {}
        self._index: dict[bytes, RecordBook[IndexEntry]] = {}
        self._signed: dict[tuple[bytes, str], SignedRecord] = {}

    def store(self, key: bytes, peer: str, data: bytes) -> bool:
        """Keep `data` under (key, peer); False when it is forged, stale, expired or does not belong there."""
        now = self.clock()
        try:
            if key in INDEX_KEYS:
                entry = decode_entry(data, peer=peer, key=key, now=now)
                kept = self._index.setdefault(key, RecordBook()).offer(entry, now=now)
            else:
                record = decode_record(data, peer=peer, key=key, now=now)
                kept = self._books.setdefault(key, RecordBook()).offer(record, now=now)
        except BadRecord:
            return False
        if kept:
            self._signed[key, peer] = SignedRecord(peer, data)
        return kept

    def signed(self, key: bytes) -> tuple[SignedRecord, ...]:
        """What was stored last under a key by each peer, withdrawals too."""
        return tuple(record for (kept, _), record in self._signed.items() if kept == key)

    def read(self, key: bytes) -> tuple[ProviderRecord, ...]:
        """The valid records under a key."""
        book = self._books.get(key)
        return book.some(MAX_PROVIDERS, self.draw, now=self.clock()) if book is not None else ()

    def listed(self) -> tuple[IndexEntry, ...]:
        """The valid entries of the whole index."""
        return tuple(entry for book in self._index.values() for entry in book.records(now=self.clock()))


class MemoryDirectory:
    """The in-process twin of `DhtDirectory`: a `Directory` over a shared `MemoryBoard`."""

    def __init__(self, identity: Identity, board: MemoryBoard, *, lifetime: float = LIFETIME) -> None:
        self._board = board
        self._peer = identity.peer_id
        self._announcer = Announcer(identity, lifetime=lifetime)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def announce(self, record: ProviderRecord) -> ProviderRecord:
        stamped, entries = self._announcer.publish(record, now=self._board.clock())
        await self._store(entries)
        return stamped

    async def withdraw(self) -> None:
        await self._store(self._announcer.withdraw(now=self._board.clock()))

    async def providers(self, model: ModelKey) -> tuple[ProviderRecord, ...]:
        await asyncio.sleep(0)
        return self._board.read(provider_key(model))

    async def models(self, name: str | None = None) -> tuple[ModelKey, ...]:
        await asyncio.sleep(0)
        return listed_models(self._board.listed(), name, draw=self._board.draw, now=self._board.clock())

    async def records_of_peers(self, peers: Iterable[str]) -> tuple[ProviderRecord, ...]:
        await asyncio.sleep(0)
        return tuple(record for peer in to_ask(peers) for record in self._board.read(peer_key(peer)))

    async def signed(self, *keys: bytes) -> tuple[SignedRecord, ...]:
        """The records under keys as their providers signed them, withdrawals among them."""
        await asyncio.sleep(0)
        return tuple(record for key in keys for record in self._board.signed(key))

    async def _store(self, entries: list[tuple[bytes, bytes, float]]) -> None:
        await asyncio.sleep(0)
        for key, data, _ in entries:
            self._board.store(key, self._peer, data)
