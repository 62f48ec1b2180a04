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
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgpack

from mesh.discovery.acquaintances import Acquaintances
from mesh.discovery.books import RecordBooks
from mesh.discovery.directory import LIFETIME, Announcer, Clock
from mesh.discovery.records import (
    INDEX_KEY,
    MAX_RECORD_BYTES,
    ModelKey,
    ProviderRecord,
    RecordBook,
    claimed_model,
    decode_record,
    provider_key,
)
from mesh.errors import BadRecord, ConfigError, PeerTimeout, PeerUnreachable
from mesh.transport.daemon import Daemon
from mesh.wire.records import SignedRecord

log = logging.getLogger(__name__)

_MAX_KEYS = 1024  # keys that this node stores for the swarm …
_MAX_KEY_BYTES = 1 << 20  # … and bytes under each; hivemind's answers must stay under 4 MiB or they hang
_MAX_BOOKS = 256  # models whose newest records this node remembers
_RPC_TIMEOUT = 2.0  # seconds for one peer's answer
_CALL_TIMEOUT = 8.0  # seconds for a whole store or search
_MEET_SECONDS = 5.0  # how often peers that fell silent are asked whether they are back
_MEET_AT_ONCE = 3  # how many of them at a time …
_MEET_ALONE = 16  # … and how many when nobody is left
_MAX_SKEW = 120.0  # seconds ahead of now that a stored record may expire at most


class DhtDirectory:
    """A `Directory` over the DHT. `async with DhtDirectory(daemon) as directory:` joins and leaves it."""

    def __init__(self, daemon: Daemon, *, lifetime: float = LIFETIME, clock: Clock = time.time) -> None:
        self._daemon = daemon
        self._clock = clock
        self._announcer = Announcer(daemon.identity, lifetime=lifetime)
        self._books = RecordBooks(_MAX_BOOKS)
        self._node: Any = None
        peers = {maddr.rsplit("/p2p/", 1)[-1]: maddr for maddr in daemon.initial_peers}
        self._initial = peers
        self._acquaintances = Acquaintances(peers, time.monotonic())
        self._meeting = asyncio.Lock()
        self._meetings: asyncio.Task[None] | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        """Raises `PeerUnreachable` when no initial peer takes part, `ConfigError` when our clock is wrong."""
        from mesh.discovery import _hivemind_dht as h

        peers = self._daemon.initial_peers
        try:
            async with asyncio.timeout(_CALL_TIMEOUT + _RPC_TIMEOUT):
                self._node = await h.DHTNode.create(
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
                )
        except h.ValidationError as error:
            raise ConfigError(f"the swarm refuses this node: {error}") from error
        except (RuntimeError, TimeoutError) as error:
            raise PeerUnreachable(f"no initial peer takes part in the DHT: {', '.join(peers)}") from error
        h.harden(self._node, max_keys=_MAX_KEYS, max_key_bytes=_MAX_KEY_BYTES)
        self._meetings = asyncio.create_task(self._meet_again(), name="DHT acquaintances")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._meetings is not None:
            self._meetings.cancel()
            await asyncio.wait({self._meetings})
        self._left = True
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
        return await self._read(provider_key(model))

    async def models(self) -> tuple[ModelKey, ...]:
        return tuple(sorted({record.model_key for record in await self._read(INDEX_KEY)}))

    async def _meet_again(self) -> None:
        """Ask those that fell silent now and then: Kademlia itself never does."""
        while True:
            await asyncio.sleep(_MEET_SECONDS)
            await self._meet()

    async def _end_solitude(self) -> None:
        """Where everybody has fallen silent, ask at once rather than find nothing."""
        from mesh.discovery import _hivemind_dht as h

        if len(self._acquaintances) and not h.present(self._node):
            async with self._meeting:  # whoever comes while others ask waits for what they find
                alone = not h.present(self._node)
            if alone:
                await self._meet()

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
        await self._end_solitude()
        keys, values, expiries = (list(column) for column in zip(*entries, strict=True))
        subkeys = [self._daemon.peer_id] * len(keys)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                stored = await self._node.store_many(keys, values, expiries, subkeys=subkeys)
        except TimeoutError:
            raise PeerTimeout("the DHT did not store our record in time") from None
        failed = [key for key, done in stored.items() if not done]
        if failed:
            # A peer that is full or has a newer record says no; ours reaches the others, or the next time.
            log.info("the DHT did not take our record under %s", failed)

    async def signed(self, key: bytes) -> tuple[SignedRecord, ...]:
        """The records under a key as their providers signed them, each checked, withdrawals among them."""
        held, _ = await self._look(key)
        return tuple(SignedRecord(peer, data) for peer, data in held)

    async def _read(self, key: bytes) -> tuple[ProviderRecord, ...]:
        _, book = await self._look(key)
        return book.records(now=self._clock())

    async def _look(self, key: bytes) -> tuple[tuple[tuple[str, bytes], ...], RecordBook]:
        """What the DHT has under a key, checked; and the book of what we ever saw there."""
        if self._left:
            raise PeerUnreachable("we have left the DHT")
        await self._end_solitude()
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                # No expiry suffices (not even an infinite one that a peer makes up): ask every replica.
                found = (await self._node.get_many([key], sufficient_expiration_time=math.nan))[key]
        except TimeoutError:
            raise PeerTimeout("the DHT did not answer in time") from None
        entries = found.value.items() if found is not None and isinstance(found.value, dict) else ()
        return self._books.hear(key, ((peer, entry.value) for peer, entry in entries), now=self._clock())


HashKey = Callable[[bytes], bytes]


class RecordCheck:
    """Whether a value may be stored, or believed, under a DHT key and subkey. Knows nothing of hivemind."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def accepts(self, key_id: bytes, subkey: bytes, value: bytes, expires: float, *, hash_key: HashKey) -> bool:
        """`key_id` is the hash of the key, `subkey` and `value` are in msgpack, as hivemind has them.

        `hash_key(key)` gives the hash of a key.
        """
        try:
            peer = _text(subkey)
            data = _binary(value)
            key = INDEX_KEY if hash_key(INDEX_KEY) == key_id else provider_key(claimed_model(data, peer=peer))
            if hash_key(key) != key_id:
                raise BadRecord("an unknown key", peer=peer)
            record = decode_record(data, peer=peer, key=key, now=self._clock())
        except BadRecord as error:
            log.debug("refused a DHT record: %s", error)
            return False
        # The DHT keeps what expires last, so that must be what the peer signed.
        return record.expires == expires and record.expires <= self._clock() + _MAX_SKEW


def _text(data: bytes) -> str:
    value = _unpacked(data)
    if not isinstance(value, str):
        raise BadRecord("a subkey that is not a peer id")
    return value


def _binary(data: bytes) -> bytes:
    value = _unpacked(data)
    if not isinstance(value, bytes):
        raise BadRecord("a value that is not binary")
    return value


def _unpacked(data: bytes) -> object:
    if len(data) > MAX_RECORD_BYTES + 16:
        raise BadRecord(f"a value of {len(data)} bytes")
    try:
        value: object = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRecord(f"a value that is not msgpack: {error}") from None
    return value
