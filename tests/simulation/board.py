"""A DHT in a few lines: replicas that lose, delay and repeat records, under clocks of their own.

What is stored are the real signed records; what is believed is decided by the real code (`decode_record`,
`RecordBook`, `Announcer`), by each replica and again by each reader.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from mesh.discovery.books import RecordBook
from mesh.discovery.directory import Announcer, to_ask
from mesh.discovery.index import INDEX_KEYS, IndexEntry, decode_entry, index_key, listed_models
from mesh.discovery.places import Draw
from mesh.discovery.records import ModelKey, ProviderRecord, decode_record, peer_key, provider_key
from mesh.errors import BadRecord, PeerTimeout
from mesh.identity import Identity
from tests.simulation.loop import MACHINE, Machine, VirtualLoop
from tests.simulation.nature import WALL

REPLICAS = 3
CALL_SECONDS = 8.0
MAX_SKEW = 120.0


@dataclass(slots=True)
class Mood:
    """Chances, per record and replica, that it is lost, late or stored once more later; and per read, unanswered."""

    lost: float = 0.0
    late: float = 0.0
    again: float = 0.0
    unanswered: float = 0.0


class SimDht:
    """The replicas, and what befalls records on the way to them."""

    def __init__(self, loop: VirtualLoop, random: Random, skews: list[float], broken: Callable[[str], None]) -> None:
        self.loop = loop
        self.broken = broken
        self.records_read = 0
        self.random = random
        self.mood = Mood()
        self.counts: Counter[str] = Counter()
        self.disturbed_at = -1e9
        """When a record met its fate last."""
        self.outages: dict[str, float] = {}
        """Peers that reach no replica, until when."""
        self._skews = skews
        self._replicas: list[dict[bytes, dict[str, tuple[bytes, float]]]] = [{} for _ in skews]

    def store(self, peer: str, copies: tuple[tuple[bytes, bytes], ...], expires: float) -> None:
        """Send a record (its signed copies, by key: they share their fate) to every replica."""
        for replica in range(len(self._replicas)):
            now, number, mood = self.loop.time(), self.random.random(), self.mood
            wait = self.random.uniform(0.005, 0.1)
            if number < mood.lost:
                self._count("record_lost")
                continue
            if number < mood.lost + mood.late:
                self._count("record_late")
                wait = self.random.uniform(1.0, 20.0)
            elif number < mood.lost + mood.late + mood.again:
                self._count("record_repeated")
                self.loop.at(now + self.random.uniform(1.0, 25.0), self._take, replica, peer, copies, expires)
            self.loop.at(now + wait, self._take, replica, peer, copies, expires)

    def read(self, *keys: bytes) -> list[tuple[str, bytes]]:
        """What the replicas that answer hold under keys: of each peer what expires last."""
        found: dict[str, tuple[bytes, float]] = {}
        for held in self._replicas:
            if self.random.random() < self.mood.unanswered:
                self._count("read_unanswered")
                continue
            for key in keys:
                for peer, (data, expires) in held.get(key, {}).items():
                    if peer not in found or found[peer][1] < expires:
                        found[peer] = data, expires
        return [(peer, data) for peer, (data, _) in found.items()]

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        self.disturbed_at = self.loop.time()

    def _take(self, replica: int, peer: str, copies: tuple[tuple[bytes, bytes], ...], expires: float) -> None:
        now = WALL + self.loop.time() + self._skews[replica]
        for key, data in copies:
            held = self._replicas[replica].setdefault(key, {})
            known = held.get(peer)
            if (known is not None and known[1] >= expires) or expires > now + MAX_SKEW:
                continue
            try:
                if key in INDEX_KEYS:
                    decode_entry(data, peer=peer, key=key, now=now)
                else:
                    decode_record(data, peer=peer, key=key, now=now)
            except BadRecord:
                continue
            held[peer] = data, expires


class SimDirectory:
    """A machine's `Directory` over the DHT."""

    def __init__(self, identity: Identity, dht: SimDht, announcer: Announcer | None = None) -> None:
        self._peer = identity.peer_id
        self._dht = dht
        self._announcer = announcer or Announcer(identity)
        self._draw = Draw(b"simulation")
        self._books: dict[bytes, RecordBook[ProviderRecord]] = {}
        self._index: RecordBook[IndexEntry] = RecordBook()
        self._seen: dict[tuple[bytes, str], ProviderRecord] = {}
        self.on_announce: Callable[[ProviderRecord], None] = lambda record: None

    async def announce(self, record: ProviderRecord) -> ProviderRecord:
        stamped, entries = self._announcer.publish(record, now=time.time())
        await self._store(entries)
        return stamped

    async def withdraw(self) -> None:
        await self._store(self._announcer.withdraw(now=time.time()))

    async def providers(self, model: ModelKey) -> tuple[ProviderRecord, ...]:
        return await self._read(provider_key(model))

    async def models(self, name: str | None = None) -> tuple[ModelKey, ...]:
        await self._travel()
        now = time.time()
        for peer, data in self._dht.read(*INDEX_KEYS):
            try:
                self._index.offer(decode_entry(data, peer=peer, key=index_key(peer), now=now), now=now)
            except BadRecord:
                continue
        self._index.expire(now=now)
        return listed_models(self._index.records(now=now), name, draw=self._draw, now=now)

    async def records_of_peers(self, peers: Iterable[str]) -> tuple[ProviderRecord, ...]:
        return tuple(record for peer in to_ask(peers) for record in await self._read(peer_key(peer)))

    async def _store(self, entries: list[tuple[bytes, bytes, float]]) -> None:
        await self._travel()
        own = peer_key(self._peer)
        alone = [(key, data) for key, data, _ in entries if key == own]
        others = [entry for entry in entries if entry[0] != own]
        for number, (key, data, expires) in enumerate(others):
            is_last_record = number == len(others) - 2  # before the entry in the index
            self._dht.store(self._peer, ((key, data), *(alone if is_last_record else ())), expires)

    async def _read(self, key: bytes) -> tuple[ProviderRecord, ...]:
        await self._travel()
        now = time.time()
        book = self._books.setdefault(key, RecordBook())
        for peer, data in self._dht.read(key):
            try:
                book.offer(decode_record(data, peer=peer, key=key, now=now), now=now)
            except BadRecord:
                continue
        book.expire(now=now)
        found = book.records(now=now)
        self._check(key, found, now)
        return found

    def _check(self, key: bytes, found: tuple[ProviderRecord, ...], now: float) -> None:
        """Nobody who was seen is seen as he was before, until what was seen has expired."""
        self._seen = {place: record for place, record in self._seen.items() if record.expires > now}
        for record in found:
            known = self._seen.get((key, record.peer))
            if known is not None and record.sequence < known.sequence:
                self._dht.broken(f"record {record.sequence} of {record.peer[-6:]} takes the place of {known.sequence}")
            self._seen[key, record.peer] = record
        self._dht.records_read += len(found)

    async def _travel(self) -> None:
        machine = MACHINE.get()
        until = self._dht.outages.get(self._peer, 0.0)
        now = self._dht.loop.time()
        if until > now:
            await asyncio.sleep(min(CALL_SECONDS, until - now))
            if until - now > CALL_SECONDS:
                raise PeerTimeout("the DHT did not answer in time")
        await asyncio.sleep(self._dht.random.uniform(0.002, 0.04))
        if isinstance(machine, Machine) and not machine.alive:
            raise PeerTimeout("this process is no more")
