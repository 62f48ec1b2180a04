"""Whether a value may be stored for the swarm, and in which form the DHT holds it (pure; knows nothing of hivemind)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgpack

from mesh.discovery.directory import Clock
from mesh.discovery.index import decode_entry, index_key
from mesh.discovery.records import MAX_RECORD_BYTES, MAX_SKEW, claimed_model, decode_record, peer_key, provider_key
from mesh.errors import BadRecord

log = logging.getLogger(__name__)

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
            signed_expiry = self._expiry(key_id, peer, data, hash_key)
        except BadRecord as error:
            log.debug("refused a DHT record: %s", error)
            return False
        # The DHT keeps what expires last, so that must be what the peer signed.
        return signed_expiry == expires and expires <= self._clock() + MAX_SKEW

    def _expiry(self, key_id: bytes, peer: str, data: bytes, hash_key: HashKey) -> float:
        now = self._clock()
        if hash_key(index_key(peer)) == key_id:
            return decode_entry(data, peer=peer, key=index_key(peer), now=now).expires
        key = peer_key(peer)
        if hash_key(key) != key_id:
            key = provider_key(claimed_model(data, peer=peer))
            if hash_key(key) != key_id:
                raise BadRecord("an unknown key", peer=peer)
        return decode_record(data, peer=peer, key=key, now=now).expires


def data_of(value: bytes) -> bytes | None:
    """The signed bytes in a value as the DHT holds it; None where it is no such value."""
    try:
        return _binary(value)
    except BadRecord:
        return None


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
