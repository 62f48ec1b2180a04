"""hivemind's DHT with its gaps closed: only checked values are stored or believed, and storage is bounded.

Imported late (hivemind takes seconds to import). The forking `hivemind.DHT` is not used, only its node.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mesh.transport import _hivemind

_hivemind.load()  # first, so that its warnings and log handlers are dealt with

from hivemind.dht.node import DHTNode  # noqa: E402
from hivemind.dht.protocol import ValidationError  # noqa: E402
from hivemind.dht.routing import DHTID  # noqa: E402
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue  # noqa: E402
from hivemind.dht.validation import DHTRecord, RecordValidatorBase  # noqa: E402
from hivemind.p2p import PeerID  # noqa: E402

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
