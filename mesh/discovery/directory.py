"""The `Directory` port, where providers announce themselves and are found, and its in-memory twin."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from mesh.discovery.records import (
    INDEX_KEY,
    ModelKey,
    ProviderRecord,
    RecordBook,
    Stamper,
    decode_record,
    encode_record,
    index_entry,
    provider_key,
)
from mesh.errors import BadRecord
from mesh.identity import Identity
from mesh.wire.records import SignedRecord

Clock = Callable[[], float]
"""Unix time in seconds."""

LIFETIME = 30.0
"""Seconds that an announcement lives; announce again every third of it."""


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
        """The providers of a model that have not withdrawn, ordered by peer id."""

    async def models(self) -> tuple[ModelKey, ...]:
        """The models that somebody lists, ordered by name and digest."""


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
            entries += self._sign(self._gone(self.current, now), keys=(provider_key(self.current.model_key),))
        stamped = self._stamper.stamp(record, now=now)
        entries += self._sign(stamped, keys=(provider_key(record.model_key), INDEX_KEY))
        self.current = stamped
        return stamped, entries

    def withdraw(self, *, now: float) -> list[tuple[bytes, bytes, float]]:
        """What to store in order to take the current announcement back; nothing where there is none."""
        if self.current is None:
            return []
        record, self.current = self.current, None
        return self._sign(self._gone(record, now), keys=(provider_key(record.model_key), INDEX_KEY))

    def _gone(self, record: ProviderRecord, now: float) -> ProviderRecord:
        return self._stamper.stamp(replace(index_entry(record), state="gone"), now=now)

    def _sign(self, record: ProviderRecord, *, keys: tuple[bytes, ...]) -> list[tuple[bytes, bytes, float]]:
        return [
            (
                key,
                encode_record(index_entry(record) if key == INDEX_KEY else record, self._identity, key=key),
                record.expires,
            )
            for key in keys
        ]


class MemoryBoard:
    """The shared place where the nodes of one in-memory network store their records, as bytes."""

    def __init__(self, *, clock: Clock = time.time) -> None:
        self.clock = clock
        self._books: dict[bytes, RecordBook] = {}
        self._signed: dict[tuple[bytes, str], SignedRecord] = {}

    def store(self, key: bytes, peer: str, data: bytes) -> bool:
        """Keep `data` under (key, peer); False when it is forged, stale, expired or does not belong there."""
        now = self.clock()
        try:
            record = decode_record(data, peer=peer, key=key, now=now)
        except BadRecord:
            return False
        if not self._books.setdefault(key, RecordBook()).offer(record, now=now):
            return False
        self._signed[key, peer] = SignedRecord(peer, data)
        return True

    def signed(self, key: bytes) -> tuple[SignedRecord, ...]:
        """What was stored last under a key by each peer, withdrawals too."""
        return tuple(record for (kept, _), record in self._signed.items() if kept == key)

    def read(self, key: bytes) -> tuple[ProviderRecord, ...]:
        """The valid records under a key."""
        book = self._books.get(key)
        return book.records(now=self.clock()) if book is not None else ()


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

    async def models(self) -> tuple[ModelKey, ...]:
        await asyncio.sleep(0)
        return tuple(sorted({record.model_key for record in self._board.read(INDEX_KEY)}))

    async def signed(self, key: bytes) -> tuple[SignedRecord, ...]:
        """The records under a key as their providers signed them, withdrawals among them."""
        await asyncio.sleep(0)
        return self._board.signed(key)

    async def _store(self, entries: list[tuple[bytes, bytes, float]]) -> None:
        await asyncio.sleep(0)
        for key, data, _ in entries:
            self._board.store(key, self._peer, data)
