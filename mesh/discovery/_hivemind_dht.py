"""hivemind's DHT with its gaps closed: only checked values are stored or believed, and storage is bounded.

Imported late (hivemind takes seconds to import). The forking `hivemind.DHT` is not used, only its node.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

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
from hivemind.p2p import P2PContext, PeerID  # noqa: E402
from hivemind.proto import dht_pb2  # noqa: E402

if TYPE_CHECKING:
    from mesh.discovery.dht import RecordCheck

__all__ = ["DHTNode", "SignedRecords", "ValidationError", "ask_whether_there", "harden", "present"]


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


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]
    """Holds entries under subkeys only, a bounded number of keys, and bounded bytes under each.

    A full storage refuses newcomers rather than drop what it has.
    """

    def __init__(self, *, max_keys: int, max_key_bytes: int) -> None:
        super().__init__()
        self._max_keys = max_keys
        self._max_key_bytes = max_key_bytes

    def store(self, key: Any, value: Any, expiration_time: float, subkey: Any = None) -> bool:
        return subkey is not None and self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: Any, subkey: Any, value: bytes, expiration_time: float) -> bool:
        kept = self.get(key)
        if kept is None:
            if len(self) >= self._max_keys:
                return False
        else:
            entry = kept.value.get(subkey)
            # hivemind would refuse an older entry too, but shorten the life of the newer one while doing so.
            if entry is not None and entry.expiration_time >= expiration_time:
                return False
            if entry is None:
                size = sum(len(other.value) for _, other in kept.value.items())
                if size + len(value) > self._max_key_bytes:
                    return False
        return bool(super().store_subkey(key, subkey, value, expiration_time))


CALLS_PER_SECOND, CALLS_AT_ONCE = 50.0, 200.0
"""DHT calls of one peer."""
OWN_KEYS = 8
"""Keys under which one peer may list itself at a time: a model's and the index are two."""
OWN_SECONDS = 120.0
OTHERS_PER_SECOND, OTHERS_AT_ONCE = 1.0, 64.0
"""Records of others that one peer may hand us, as a node does whose neighbours change."""
LEAST_ENTRY = 256
"""Bytes of the smallest record: how many a whole dictionary counts as."""


class DHTProtocol(_DHTProtocol):  # type: ignore[misc]
    """hivemind's, with a bound on what each peer may ask and store. The name is part of the protocol's."""

    def __init__(self, *, _initialized_with_create: bool = False) -> None:
        super().__init__(_initialized_with_create=_initialized_with_create)
        self._calls = Rates(CALLS_PER_SECOND, CALLS_AT_ONCE)
        self._others = Rates(OTHERS_PER_SECOND, OTHERS_AT_ONCE)
        self._own: dict[str, dict[bytes, float]] = {}
        """Per peer: the keys under which it lists itself, and when it did so last."""

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
        kept = [called and self._may_store(sender, key, tag, len(value)) for key, tag, value, _, _ in rows]
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

    def _may_store(self, sender: str, key: bytes, tag: bytes, size: int) -> bool:
        """Its own record under few keys, and few records of others."""
        now = time.monotonic()
        if tag == self.serializer.dumps(sender):
            keys = self._own.setdefault(sender, {})
            for old in [each for each, at in keys.items() if now - at > OWN_SECONDS]:
                del keys[old]
            if key not in keys and len(keys) >= OWN_KEYS:
                return False
            keys[key] = now
            while len(self._own) > MOST_PEERS:
                del self._own[next(iter(self._own))]
            return True
        count = 1 + size // LEAST_ENTRY if tag == self.IS_DICTIONARY else 1
        others = self._others.of(sender)
        return all(others.take(now) for _ in range(min(count, int(OTHERS_AT_ONCE) + 1)))


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


def harden(node: Any, *, max_keys: int, max_key_bytes: int) -> None:
    """Bound what `node` stores for others, and drop bad entries of a dictionary instead of all of it."""
    protocol = node.protocol
    bounds = {"max_keys": max_keys, "max_key_bytes": max_key_bytes}
    early = protocol.storage
    protocol.storage, protocol.cache = BoundedStorage(**bounds), BoundedStorage(**bounds)
    for key, item in early.items():
        if isinstance(item.value, DictionaryDHTValue):
            for subkey, entry in item.value.items():
                protocol.storage.store_subkey(key, subkey, entry.value, entry.expiration_time)

    def keep_valid(key_bytes: bytes, dictionary: Any) -> bool:
        if not isinstance(dictionary, DictionaryDHTValue):
            return False
        dictionary.maxsize = math.inf  # the sender's word; the size of its message bounds it
        with dictionary.freeze():
            for subkey, (value, expires) in list(dictionary.data.items()):
                record = DHTRecord(key_bytes, protocol.serializer.dumps(subkey), value, expires)
                if not protocol.record_validator.validate(record):
                    del dictionary[subkey]
        return True

    protocol._validate_dictionary = keep_valid
