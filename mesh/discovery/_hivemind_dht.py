"""hivemind's DHT with its gaps closed: only checked values are stored or believed, and storage is bounded.

Imported late (hivemind takes seconds to import). The forking `hivemind.DHT` is not used, only its node.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from mesh.discovery.index import INDEX_KEYS
from mesh.discovery.places import DRAW_SECONDS, Draw, Places
from mesh.discovery.records import MAX_SKEW
from mesh.transport import _hivemind
from mesh.transport.quotas import MOST_PEERS, Rates

_hivemind.load()  # first, so that its warnings and log handlers are dealt with

import hivemind.dht.node  # noqa: E402
from hivemind.dht.node import DHTNode  # noqa: E402
from hivemind.dht.protocol import DHTProtocol as _DHTProtocol  # noqa: E402
from hivemind.dht.protocol import ValidationError  # noqa: E402
from hivemind.dht.routing import DHTID  # noqa: E402
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue  # noqa: E402
from hivemind.dht.validation import DHTRecord, RecordValidatorBase  # noqa: E402
from hivemind.p2p import P2PContext, P2PDaemonError, P2PHandlerError, PeerID  # noqa: E402
from hivemind.proto import dht_pb2  # noqa: E402

if TYPE_CHECKING:
    from mesh.discovery.record_check import RecordCheck

__all__ = [
    "DHTNode",
    "SignedRecords",
    "ValidationError",
    "ask_whether_there",
    "clock_of",
    "harden",
    "key_id",
    "present",
]


def hash_key(key: bytes) -> bytes:
    """What hivemind stores a key as."""
    hashed: bytes = DHTID.generate(source=key).to_bytes()
    return hashed


class SignedRecords(RecordValidatorBase):  # type: ignore[misc]
    """hivemind asks this before it stores a value for others and before it believes one it was given."""

    def __init__(self, check: RecordCheck) -> None:
        self._check = check

    def validate(self, record: Any) -> bool:
        return self._check.accepts(record.key, record.subkey, record.value, record.expiration_time, hash_key=hash_key)


UNIT: Final = 2048
"""Bytes of an ordinary record: what one unit of room is for."""
ROOM: Final = 512
"""Units under one key: hivemind's answers must stay under 4 MiB or they hang."""
INDEX_ROOM: Final = 1024
"""Entries under one key of the index."""
ALL_ROOM: Final = 32_768
"""Units under all keys together."""


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]
    """Holds entries under subkeys only: so many units under each key, and under all keys together.

    Where there is no room, the places are drawn among those that hold them and who asks for one (`Places`).
    """

    def __init__(self, *, room: int = ROOM, total: int = ALL_ROOM, index: Mapping[bytes, int] | None = None) -> None:
        """`index` gives keys (hashed) a room of their own."""
        super().__init__()
        self._room = room
        self._index = {} if index is None else index
        self._draw = Draw()
        self._all = Places[tuple[Any, Any]](total, self._draw, _name)
        self._keys: dict[Any, Places[tuple[Any, Any]]] = {}
        self._purge_at = 0.0

    def store(self, key: Any, value: Any, expiration_time: float, subkey: Any = None) -> bool:
        return subkey is not None and self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: Any, subkey: Any, value: bytes, expiration_time: float) -> bool:
        now = time.time()
        kept = self.get(key)
        entry = None if kept is None else kept.value.get(subkey)
        if entry is not None and entry.expiration_time > now + MAX_SKEW:
            self._evict(key, subkey)  # taken while our clock was ahead
            entry = None
        # hivemind would refuse an older entry too, but shorten the life of the newer one while doing so.
        if entry is not None and entry.expiration_time >= expiration_time:
            return bool(entry.expiration_time == expiration_time and entry.value == value)
        losers = self._losers(key, subkey, len(value), now)
        if losers is None:
            return False
        for loser in losers:
            self._evict(*loser)
        if not super().store_subkey(key, subkey, value, expiration_time):
            return False
        here = self._keys.setdefault(key, self._places(key))
        for places in (here, self._all):
            places.take((key, subkey), _units(len(value)), expiration_time, now)
        return True

    def admits(self, key: Any, subkey: Any, size: int) -> bool:
        """Whether a value of `size` bytes would get a place now."""
        return self._losers(key, subkey, size, time.time()) is not None

    def is_full(self, key: Any) -> bool:
        """Whether a newcomer under this key would cost others their place."""
        return self._all.full or (key in self._keys and self._keys[key].full)

    def _places(self, key: Any) -> Places[tuple[Any, Any]]:
        return Places(self._index.get(key.to_bytes(), self._room) if self._index else self._room, self._draw, _name)

    def _losers(self, key: Any, subkey: Any, size: int, now: float) -> list[tuple[Any, Any]] | None:
        if time.monotonic() >= self._purge_at:
            self._purge(now)
        who, units = (key, subkey), _units(size)
        here = self._keys.get(key) or self._places(key)
        local = here.losers(who, units, now)
        if local is None:
            return None
        # Those that lose their place under the key make room in all.
        everywhere = self._all.losers(who, units, now, leaving=local)
        return None if everywhere is None else list(dict.fromkeys((*local, *everywhere)))

    def _evict(self, key: Any, subkey: Any) -> None:
        kept = self.get(key)
        if kept is not None:
            del kept.value[subkey]
            if not kept.value.data:
                del self[key]
        self._forget(key, subkey)

    def _forget(self, key: Any, subkey: Any) -> None:
        self._all.drop((key, subkey))
        here = self._keys.get(key)
        if here is not None:
            here.drop((key, subkey))
            if not len(here):
                del self._keys[key]

    def _purge(self, now: float) -> None:
        """Give back the places of what has expired."""
        self._purge_at = time.monotonic() + DRAW_SECONDS
        for key, subkey in self._all.expire(now):
            self._forget(key, subkey)


def _units(size: int) -> int:
    return max(1, -(-size // UNIT))


def _name(place: tuple[Any, Any]) -> bytes:
    key, subkey = place
    return b"%s %s" % (str(int(key)).encode(), str(subkey).encode())


CALLS_PER_SECOND, CALLS_AT_ONCE = 50.0, 200.0
"""DHT calls of one peer."""
OWN_KEYS = 8
"""Keys under which one peer may list itself at a time: its model's, the index and its own are three."""
OWN_SECONDS = 120.0
OTHERS_PER_SECOND, OTHERS_AT_ONCE = 1.0, 64.0
"""Records of others that one peer may hand us, as a node does whose neighbours change."""
LEAST_ENTRY = 128
"""Bytes of the smallest record: how many a whole dictionary counts as."""
MOST_HEARD = 1024
MOST_HEARD_BYTES = 1 << 20
"""Entries under one key that are taken from one node's answer, chosen at random of all that it gives."""

_finding: ContextVar[bool] = ContextVar("finding", default=False)


class DHTProtocol(_DHTProtocol):  # type: ignore[misc]
    """hivemind's, with a bound on what each peer may ask and store. The name is part of the protocol's."""

    node_info = dht_pb2.NodeInfo()
    """Until it has been created: peers may ask as soon as it is served, and are told of nobody whom they could note."""

    def __init__(self, *, _initialized_with_create: bool = False) -> None:
        super().__init__(_initialized_with_create=_initialized_with_create)
        self._calls = Rates(CALLS_PER_SECOND, CALLS_AT_ONCE)
        self._others = Rates(OTHERS_PER_SECOND, OTHERS_AT_ONCE)
        self._own: dict[str, dict[bytes, float]] = {}
        """Per peer: the keys under which it lists itself, and when it did so last."""
        self._heard: dict[bytes, list[Heard]] = {}
        """Those that look for a key (hashed) now, and what they have been told."""

    async def rpc_ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        if not self._may_call(context):
            return dht_pb2.PingResponse(peer=self.node_info)
        return await super().rpc_ping(request, context)

    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        if not self._may_call(context):
            return dht_pb2.FindResponse(results=[], peer=self.node_info)
        return await super().rpc_find(request, context)

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        rows = list(
            zip(request.keys, request.subkeys, request.values, request.expiration_time, request.in_cache, strict=False)
        )
        called = self._may_call(context)
        sender = context.remote_id.to_base58()
        kept = [
            called and not in_cache and self._may_store(sender, key, tag, len(value))
            for key, tag, value, _, in_cache in rows
        ]
        chosen = [row for row, keep in zip(rows, kept, strict=True) if keep]
        passed = dht_pb2.StoreRequest(
            auth=request.auth,
            keys=[row[0] for row in chosen],
            subkeys=[row[1] for row in chosen],
            values=[row[2] for row in chosen],
            expiration_time=[row[3] for row in chosen],
            in_cache=[row[4] for row in chosen],
            peer=request.peer if called else None,
        )
        stored = iter((await super().rpc_store(passed, context)).store_ok)
        return dht_pb2.StoreResponse(store_ok=[next(stored) if keep else False for keep in kept], peer=self.node_info)

    def _may_call(self, context: P2PContext) -> bool:
        return self._calls.of(context.remote_id.to_base58()).take(time.monotonic())

    async def call_find(self, peer: Any, keys: Any) -> Any:
        token = _finding.set(True)
        try:
            return await super().call_find(peer, keys)
        finally:
            _finding.reset(token)

    @contextmanager
    def listening(self, keys: Sequence[Any]) -> Iterator[dict[bytes, Heard]]:
        """While others are asked for keys (hashed): what they answer, unchecked.

        hivemind merges answers by expiries that nobody signed, which takes checking each before it is merged, the
        same record once for every node that has it. Here they are kept side by side instead.
        """
        heard: dict[bytes, Heard] = {}
        for key in keys:
            mine = heard[key.to_bytes()] = {}
            kept = self.storage.get(key)
            if kept is not None:
                mine.update(dict.fromkeys((subkey, entry.value) for subkey, entry in kept.value.items()))
            self._heard.setdefault(key.to_bytes(), []).append(mine)
        try:
            yield heard
        finally:
            for name, mine in heard.items():
                listeners = self._heard[name]
                listeners[:] = [each for each in listeners if each is not mine]
                if not listeners:
                    del self._heard[name]

    def _validate_dictionary(self, key_bytes: bytes, dictionary: Any) -> bool:
        """Of what is stored for others the bad entries are dropped, instead of all of it; answers are only heard."""
        if not isinstance(dictionary, DictionaryDHTValue):
            return False
        if _finding.get():
            self._hear(key_bytes, dictionary)
            return False
        dictionary.maxsize = float("inf")  # the sender's word; the size of its message bounds it
        with dictionary.freeze():
            for subkey, (value, expires) in list(dictionary.data.items()):
                record = DHTRecord(key_bytes, self.serializer.dumps(subkey), value, expires)
                if not self.record_validator.validate(record):
                    del dictionary[subkey]
        return True

    def _hear(self, key_bytes: bytes, dictionary: Any) -> None:
        listeners = self._heard.get(key_bytes)
        if not listeners:
            return
        entries = [
            (subkey, entry.value)
            for subkey, entry in dictionary.data.items()
            if isinstance(subkey, str) and isinstance(entry.value, bytes)
        ]
        size = 0
        for entry in random.sample(entries, min(len(entries), MOST_HEARD)):
            size += len(entry[1])
            if size > MOST_HEARD_BYTES:
                break
            for mine in listeners:
                mine[entry] = None

    def _may_store(self, sender: str, key: bytes, tag: bytes, size: int) -> bool:
        """Its own record under few keys; and few records of others, which cost nobody a place.

        A peer that announces itself does so from its own id: made-up peers take a connection each.
        """
        now = time.monotonic()
        bounded = self.storage if isinstance(self.storage, BoundedStorage) else None
        key_id = DHTID.from_bytes(key)
        if tag == self.serializer.dumps(sender):
            keys = self._own.setdefault(sender, {})
            for old in [each for each, at in keys.items() if now - at > OWN_SECONDS]:
                del keys[old]
            if key not in keys and len(keys) >= OWN_KEYS:
                return False
            keys[key] = now
            while len(self._own) > MOST_PEERS:
                del self._own[next(iter(self._own))]
            return bounded is None or bounded.admits(key_id, sender, size)  # before its signature costs anything
        if bounded is not None and bounded.is_full(key_id):
            return False
        count = 1 + size // LEAST_ENTRY if tag == self.IS_DICTIONARY else 1
        others = self._others.of(sender)
        return all(others.take(now) for _ in range(min(count, int(OTHERS_AT_ONCE) + 1)))


Heard = dict[tuple[str, bytes], None]
"""What was heard under a key: (peer, value in msgpack), each once, in the order of its coming."""


hivemind.dht.node.DHTProtocol = DHTProtocol  # where its node takes the class from


def present(node: Any) -> frozenset[str]:
    """The peers in a node's routing table."""
    return frozenset(peer.to_base58() for peer in node.protocol.routing_table.peer_id_to_uid)


async def ask_whether_there(node: Any, peer: str) -> bool:
    """Ping a peer, which takes it into our routing table, and us into its own, where it answers."""
    peer_id = PeerID.from_base58(peer)
    if await node.protocol.call_ping(peer_id) is None:
        return False
    node.blacklist.register_success(peer_id)  # hivemind's ban doubles with every failure
    return True


async def clock_of(node: Any, peer: str) -> float | None:
    """By how many seconds the peer's clock is ahead of ours; None where it does not answer, or not with its time."""
    protocol = node.protocol
    request = dht_pb2.PingRequest(peer=protocol.node_info, validate=False)
    began, asked = time.time(), time.monotonic()
    try:
        answer = await protocol.get_stub(PeerID.from_base58(peer)).rpc_ping(request, timeout=protocol.wait_timeout)
    except (P2PHandlerError, P2PDaemonError, TimeoutError, OSError):
        return None
    took = time.monotonic() - asked
    if not answer.dht_time or abs(time.time() - began - took) > 1.0:  # the clock was set meanwhile
        return None
    return float(answer.dht_time) - (began + took / 2)


def bounded_storage() -> BoundedStorage:
    """What a node keeps for the swarm."""
    return BoundedStorage(index={hash_key(key): INDEX_ROOM for key in INDEX_KEYS})


def key_id(key: bytes) -> Any:
    """hivemind's form of a key."""
    return DHTID.generate(source=key)


def harden(node: Any) -> None:
    """Bound what `node` stores for others."""
    protocol = node.protocol
    early = protocol.storage
    protocol.storage, protocol.cache = bounded_storage(), BoundedStorage(room=0, total=0)
    for key, item in early.items():
        if isinstance(item.value, DictionaryDHTValue):
            for subkey, entry in item.value.items():
                protocol.storage.store_subkey(key, subkey, entry.value, entry.expiration_time)
