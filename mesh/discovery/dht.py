"""The `Directory` over hivemind's Kademlia DHT, run in this process on our own daemon's connection.

Every node that stores or reads a record checks it first: signed by the peer that its subkey names, under the
key of the model that it names, alive, and no older than what is stored already. hivemind's own validator lets
unsigned values pass; ours refuses everything that it does not know.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from mesh.discovery.acquaintances import Acquaintances
from mesh.discovery.addresses import AddressBook
from mesh.discovery.asking import ask_themselves
from mesh.discovery.books import Announced, RecordBook, RecordBooks
from mesh.discovery.clocks import ClockWatch, compare, refused_by_swarm
from mesh.discovery.directory import LIFETIME, MAX_PROVIDERS, Announcer, Clock, to_ask
from mesh.discovery.index import INDEX_KEYS, IndexEntry, decode_entry, listed_models, may_name
from mesh.discovery.peer_book import PeerBook
from mesh.discovery.places import DRAW_SECONDS, Draw
from mesh.discovery.record_check import RecordCheck, data_of
from mesh.discovery.records import MAX_SKEW, ModelKey, ProviderRecord, decode_record, peer_key, provider_key
from mesh.errors import DaemonDown, InternalError, PeerError, PeerTimeout, PeerUnreachable
from mesh.transport.daemon import Daemon
from mesh.transport.port import Transport
from mesh.wire.records import SignedRecord

T = TypeVar("T")
R = TypeVar("R", bound=Announced)
Entries = tuple[tuple[str, bytes], ...]
"""Peers, and what each is said to have signed."""

log = logging.getLogger(__name__)

_MAX_BOOKS = 256  # models whose newest records this node remembers
_RPC_TIMEOUT = 2.0  # seconds for one peer's answer
_CALL_TIMEOUT = 8.0  # seconds for a whole store or search
_MEET_SECONDS = 5.0  # how often peers that fell silent are asked whether they are back
_MEET_AT_ONCE = 3  # how many of them at a time …
_MEET_ALONE = 16  # … and how many when nobody is left
_CLOCKS_AT_ONCE = 3  # neighbours whose clocks are compared with ours, as often
_KEYS_AT_ONCE = 16  # keys of one search …
_SEARCHES = 4  # … and such searches at a time
_INSIST_TIMES = 4  # how often an announcement that got no place is tried again, once for each draw


class DhtDirectory:
    """A `Directory` over the DHT. `async with DhtDirectory(daemon) as directory:` joins and leaves it."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        transport: Transport | None = None,
        lifetime: float = LIFETIME,
        clock: Clock = time.time,
    ) -> None:
        """Over `transport` peers are asked for their own records where the DHT has none of them."""
        self._daemon = daemon
        self._transport = transport
        self._clock = clock
        self._announcer = Announcer(daemon.identity, lifetime=lifetime)
        self._draw = Draw()
        self._books = RecordBooks(decode_record, _MAX_BOOKS, longest=MAX_SKEW)
        self._index = RecordBooks(decode_entry, len(INDEX_KEYS), longest=MAX_SKEW)
        self._addresses = AddressBook()
        self._peers = PeerBook(longest=MAX_SKEW)
        self._own: dict[bytes, tuple[str, bytes]] = {}
        """What we announced last, by key: we know ourselves whatever others keep."""
        self._stored: list[tuple[bytes, bytes, float]] = []
        """The same as it was stored: key, signed record, expiry."""
        self._insisting: asyncio.Task[None] | None = None
        self._index_search: asyncio.Task[dict[bytes, Entries]] | None = None
        self._node: Any = None
        peers = {maddr.rsplit("/p2p/", 1)[-1]: maddr for maddr in daemon.initial_peers}
        self._initial = peers
        self.clocks = ClockWatch()
        """Our clock beside the neighbours'."""
        self._acquaintances = Acquaintances(peers, time.monotonic())
        self._meeting = asyncio.Lock()
        self._meetings: asyncio.Task[None] | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        """Raises `PeerUnreachable` when no initial peer takes part, `WrongClock` when that is why."""
        from mesh.discovery import _hivemind_dht as h

        peers = self._daemon.initial_peers
        try:
            async with asyncio.timeout(_CALL_TIMEOUT + _RPC_TIMEOUT):
                self._node = await self._create(peers)
        except h.ValidationError as error:
            raise refused_by_swarm(str(error)) from error
        except (RuntimeError, TimeoutError) as error:
            raise PeerUnreachable(f"no initial peer takes part in the DHT: {', '.join(peers)}") from error
        self._daemon.on_restart(self._join_again)
        self._meetings = asyncio.create_task(self._meet_again(), name="DHT acquaintances")
        return self

    async def _create(self, peers: Sequence[str], **more: Any) -> Any:
        from mesh.discovery import _hivemind_dht as h

        node = await h.DHTNode.create(
            self._daemon.p2p,
            initial_peers=peers or None,
            client_mode=self._daemon.client_mode,
            record_validator=h.SignedRecords(RecordCheck(self._clock)),
            wait_timeout=_RPC_TIMEOUT,
            # Its caches outlive what is cached and believe expiries that nobody signed.
            cache_locally=False,
            cache_on_store=False,
            cache_nearest=0,
            cache_refresh_before_expiry=0,
            reuse_get_requests=False,
            **more,
        )
        h.harden(node)
        return node

    async def _join_again(self) -> None:
        """Our daemon is another one: take part in the DHT through it, as the same node with the same records."""
        if self._left:
            return
        from mesh.discovery import _hivemind_dht as h

        old = self._node
        old.is_alive = False
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                self._node = await self._create((), node_id=old.node_id)
                self._node.protocol.storage = old.protocol.storage
                neighbours = [peer for peer in await self._daemon.connections() if peer != self._daemon.peer_id]
                asked = (h.ask_whether_there(self._node, peer) for peer in {*self._initial, *neighbours})
                await asyncio.gather(*asked, return_exceptions=True)
        except (RuntimeError, TimeoutError, OSError, EOFError) as error:
            raise InternalError(f"the DHT could not be joined again: {error!r}") from error
        current = [entry for entry in self._stored if entry[2] > self._clock()]
        if current:
            if self._insisting is not None:
                self._insisting.cancel()
            self._insisting = asyncio.create_task(self._insist(current, 0.0), name="announcing again")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        running = {task for task in (self._meetings, self._insisting, self._index_search) if task is not None}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        try:
            async with asyncio.timeout(_RPC_TIMEOUT):
                await self._node.shutdown()
        except (TimeoutError, OSError, EOFError) as problem:
            log.debug("the DHT did not shut down cleanly: %r", problem)

    async def announce(self, record: ProviderRecord) -> ProviderRecord:
        stamped, entries = self._announcer.publish(record, now=self._clock())
        await self._store(entries)
        return stamped

    async def withdraw(self) -> None:
        await self._store(self._announcer.withdraw(now=self._clock()))

    async def providers(self, model: ModelKey) -> tuple[ProviderRecord, ...]:
        key = provider_key(model)
        found = await self._search([key])
        _, book = await self._hear(self._books, key, found[key])
        records = self._found(book.some(MAX_PROVIDERS, self._draw, now=self._clock()))
        self._addresses.note(records)
        return records

    async def maddrs_of(self, peer: str) -> tuple[str, ...]:
        """Where a peer says that it can be dialled, by its record in the DHT. Raises `PeerError`s."""
        if not self._addresses.of(peer):
            entries = (await self._search([key := peer_key(peer)]))[key]
            told = {peer: [data for who, data in entries if who == peer]}
            self._addresses.note(self._peers.hear_each(told, now=self._clock()))
        return self._addresses.of(peer)

    async def models(self, name: str | None = None) -> tuple[ModelKey, ...]:
        listed: list[IndexEntry] = []
        for key, entries in (await self._search_index()).items():
            wanted = entries if name is None else tuple(each for each in entries if may_name(each[1], name))
            _, book = await self._hear(self._index, key, wanted)
            listed += book.records(now=self._clock())
        return self._found(listed_models(listed, name, draw=self._draw, now=self._clock()))

    async def records_of_peers(self, peers: Iterable[str]) -> tuple[ProviderRecord, ...]:
        wanted = {peer_key(peer): peer for peer in to_ask(peers)}
        told: dict[str, list[bytes]] = {peer: [] for peer in wanted.values()}
        try:
            for key, entries in (await self._search_many(list(wanted))).items():
                told[wanted[key]] = [data for who, data in entries if who == wanted[key]]
        except PeerError:
            if self._transport is None or self._left:
                raise
        records = self._peers.hear_each(told, now=self._clock())
        missing = set(told) - {record.peer for record in records}
        if missing and self._transport is not None:
            told |= await ask_themselves(self._transport, missing)
            records = self._peers.hear_each(told, now=self._clock())
        self._addresses.note(records)
        return records

    async def _meet_again(self) -> None:
        """Ask those that fell silent now and then: Kademlia itself never does."""
        while True:
            await asyncio.sleep(_MEET_SECONDS)
            await self._meet()
            await self.compare_clocks(_CLOCKS_AT_ONCE)

    async def compare_clocks(self, most: int) -> Mapping[str, float]:
        """Ask `most` neighbours for the time, and say so where ours is wrong; by how many seconds each is ahead."""
        from mesh.discovery import _hivemind_dht as h

        return await compare(self.clocks, h.present(self._node), most, partial(h.clock_of, self._node))

    async def _end_solitude(self) -> None:
        """Where everybody has fallen silent, ask at once rather than find nothing."""
        from mesh.discovery import _hivemind_dht as h

        if len(self._acquaintances) and not h.present(self._node):
            async with self._meeting:  # whoever comes while others ask waits for what they find
                alone = not h.present(self._node)
            if alone:
                await self._meet()

    def _check_company(self) -> None:
        """Raises `PeerUnreachable` where finding nothing would say nothing of what the swarm has."""
        from mesh.discovery import _hivemind_dht as h

        if self._daemon.client_mode and not h.present(self._node):  # others may be the first of a swarm, and alone
            raise PeerUnreachable("no node of the swarm answers")

    def _found(self, found: tuple[T, ...]) -> tuple[T, ...]:
        """Raises `PeerUnreachable` where nothing was found, and that is because our clock is wrong."""
        if not found and (problem := self.clocks.problem(time.monotonic())) is not None:
            raise PeerUnreachable(problem)
        return found

    async def _meet(self) -> None:
        from mesh.discovery import _hivemind_dht as h

        async with self._meeting:
            now, there = time.monotonic(), h.present(self._node)
            self._acquaintances.saw(there, now)
            asked = self._acquaintances.to_ask(there, _MEET_AT_ONCE if there else _MEET_ALONE, now)
            await asyncio.gather(*(self._ask(peer) for peer in asked))

    async def _ask(self, peer: str) -> None:
        from mesh.discovery import _hivemind_dht as h

        try:
            async with asyncio.timeout(2 * _RPC_TIMEOUT):
                if not await h.ask_whether_there(self._node, peer) and peer in self._initial:
                    # The daemon forgets addresses too.
                    await self._daemon.connect(peer, (self._initial[peer],), timeout=_RPC_TIMEOUT)
        except (TimeoutError, PeerUnreachable) as error:
            log.debug("%s is still away: %r", peer, error)

    async def _store(self, entries: list[tuple[bytes, bytes, float]]) -> None:
        if not entries:
            return
        if self._insisting is not None:
            self._insisting.cancel()
        self._own = {key: (self._daemon.peer_id, data) for key, data, _ in entries}
        self._stored = entries
        refused = await self._store_once(entries)
        if refused:
            self._insisting = asyncio.create_task(self._insist(refused), name="announcing again")

    async def _insist(self, entries: list[tuple[bytes, bytes, float]], wait: float = DRAW_SECONDS) -> None:
        """Where there is no room for us, take part in the draws until the next announcement is due."""
        for _ in range(_INSIST_TIMES):
            await asyncio.sleep(wait)
            wait = DRAW_SECONDS
            try:
                entries = await self._store_once(entries)
            except (PeerTimeout, PeerUnreachable) as error:
                log.debug("not announced again: %s", error)
            if not entries:
                return

    async def _store_once(self, entries: list[tuple[bytes, bytes, float]]) -> list[tuple[bytes, bytes, float]]:
        """Store; returns what a peer did not take."""
        if not self._daemon.up.is_set():
            raise DaemonDown
        await self._end_solitude()
        keys, values, expiries = (list(column) for column in zip(*entries, strict=True))
        subkeys = [self._daemon.peer_id] * len(keys)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                stored = await self._node.store_many(keys, values, expiries, subkeys=subkeys)
        except TimeoutError:
            raise PeerTimeout("the DHT did not store our record in time") from None
        failed = [entry for entry in entries if not stored.get((entry[0], self._daemon.peer_id))]
        if failed:
            # A peer that has no room or a newer record says no; ours reaches the others, or the next time.
            log.info("the DHT did not take our record under %s", [key for key, _, _ in failed])
        return failed

    async def signed(self, *keys: bytes) -> tuple[SignedRecord, ...]:
        """The records under keys as their providers signed them, each checked, withdrawals among them."""
        if keys == (peer_key(self._daemon.peer_id),) and keys[0] in self._own:
            return (SignedRecord(*self._own[keys[0]]),)  # nobody knows it better
        held: list[tuple[str, bytes]] = []
        for key, entries in (await self._search_many(list(keys))).items():
            if key in INDEX_KEYS:
                held += (await self._hear(self._index, key, entries))[0]
            else:
                held += (await self._hear(self._books, key, entries))[0]
        return tuple(SignedRecord(peer, data) for peer, data in held)

    async def _hear(self, books: RecordBooks[R], key: bytes, entries: Entries) -> tuple[Entries, RecordBook[R]]:
        """Check what was found under a key, with pauses; and the book of what we ever saw there."""
        hearing = books.hearing(key, now=self._clock())
        for batch in hearing.batches(entries):
            hearing.take(batch, now=self._clock())
            await asyncio.sleep(0)
        return tuple(hearing.held), hearing.book

    async def _search_index(self) -> dict[bytes, Entries]:
        """What is under the keys of the index; those that ask at the same time share one search."""
        search = self._index_search
        if search is None or search.done():
            search = asyncio.create_task(self._search_many(INDEX_KEYS), name="reading the index")
            self._index_search = search
        try:
            return await asyncio.shield(search)
        except asyncio.CancelledError:
            if search.cancelled():
                raise PeerUnreachable("we have left the DHT") from None
            raise

    async def _search_many(self, keys: Sequence[bytes]) -> dict[bytes, Entries]:
        """`_search` for many keys, a few at a time: what is found by the deadline. Raises when no search succeeds."""
        turns = asyncio.Semaphore(_SEARCHES)

        async def some(chunk: Sequence[bytes]) -> dict[bytes, Entries]:
            async with turns:
                return await self._search(chunk)

        chunks = [keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE)]
        searches = {asyncio.create_task(some(chunk), name="searching the DHT") for chunk in chunks}
        if not searches:
            return {}
        try:
            done, _ = await asyncio.wait(searches, timeout=_CALL_TIMEOUT + _RPC_TIMEOUT)
        finally:
            for search in searches:
                search.cancel()
            await asyncio.wait(searches)
        found: dict[bytes, Entries] = dict.fromkeys(keys, ())
        failure: PeerError | None = None
        answered = False
        for search in done:
            try:
                found |= search.result()
                answered = True
            except PeerError as error:
                failure = error
        if not answered:
            raise failure or PeerTimeout("the DHT did not answer in time")
        return found

    async def _search(self, keys: Sequence[bytes]) -> dict[bytes, Entries]:
        """What the DHT has under keys, unchecked. Raises `PeerTimeout` where nothing was heard in time."""
        from mesh.discovery import _hivemind_dht as h

        if self._left:
            raise PeerUnreachable("we have left the DHT")
        if not self._daemon.up.is_set():
            raise DaemonDown
        await self._end_solitude()
        self._check_company()
        ids = {key: h.key_id(key) for key in keys}
        with self._node.protocol.listening(tuple(ids.values())) as heard:
            try:
                async with asyncio.timeout(_CALL_TIMEOUT):
                    # No expiry suffices (not even an infinite one that a peer makes up): ask every replica.
                    await self._node.get_many(keys, sufficient_expiration_time=math.nan)
            except TimeoutError:
                if not any(heard.values()):
                    raise PeerTimeout("the DHT did not answer in time") from None
        found = {}
        for key, key_id in ids.items():
            own = (self._own[key],) if key in self._own else ()
            entries = ((peer, data_of(value)) for peer, value in heard[key_id.to_bytes()])
            found[key] = (*own, *((peer, data) for peer, data in entries if data is not None))
        return found
