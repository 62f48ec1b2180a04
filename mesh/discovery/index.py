"""The index of models: small signed entries, one per provider, spread over several DHT keys by peer id (pure).

    entry on the wire = Ed25519 signature (64 bytes) | body (canonical msgpack map, keys sorted)

An entry names the model that its peer serves and nothing else, so that many fit under a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from mesh.discovery import fields
from mesh.discovery.places import Draw
from mesh.discovery.records import DIGEST, MAX_LIFETIME, NAME, ModelKey, ProviderRecord
from mesh.errors import BadRecord, InternalError
from mesh.identity import SIGNATURE_SIZE, Identity, verify

MAX_ENTRY_BYTES: Final = 384
SHARDS: Final = 8
INDEX_KEYS: Final = tuple(f"mesh/1/models/{shard}".encode() for shard in range(SHARDS))
"""The DHT keys of the index; a peer's entry is under one of them."""
MAX_MODELS: Final = 256
"""Models that one look at the index returns at most …"""
MAX_NAMESAKES: Final = 16
"""… and digests of one name."""

_DOMAIN: Final = b"mesh index entry v1\n"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """That a peer serves a model. `sequence` and `expires` (Unix time, seconds) are those of its record."""

    peer: str
    model: str
    digest: str
    sequence: int
    expires: float
    gone: bool = False
    """The peer takes its entry back."""

    @property
    def model_key(self) -> ModelKey:
        return ModelKey(self.model, self.digest)


def index_key(peer: str) -> bytes:
    """The DHT key under which a peer lists itself."""
    return INDEX_KEYS[sha256(peer.encode()).digest()[0] % SHARDS]


def index_entry(record: ProviderRecord) -> IndexEntry:
    """What of a record goes into the index."""
    return IndexEntry(record.peer, record.model, record.digest, record.sequence, record.expires, record.gone)


def encode_entry(entry: IndexEntry, identity: Identity) -> bytes:
    """Sign an entry. Raises `InternalError` for one that others would refuse, whatever its time."""
    if entry.peer != identity.peer_id:
        raise InternalError(f"an entry of {entry.peer} cannot be signed by {identity.peer_id}")
    body = _pack(entry)
    try:
        _parse(body, entry.peer)
    except BadRecord as error:
        raise InternalError(f"this index entry would be refused by everybody: {error}") from error
    return identity.sign(_message(entry.peer, body)) + body


def decode_entry(data: bytes, *, peer: str, key: bytes, now: float) -> IndexEntry:
    """Read and check the entry that `peer` is said to have under the DHT key `key`.

    Raises `BadRecord` unless it is well-formed and in bounds, belongs under `key`, is signed by `peer`, and
    expires after `now` (Unix time, seconds) but within `MAX_LIFETIME`.
    """
    body = _body(data)
    entry = _parse(body, peer)
    if key != index_key(peer):
        raise BadRecord("the index entry does not belong under this key", peer=peer)
    if not now < entry.expires <= now + MAX_LIFETIME:
        raise BadRecord(f"the index entry expires {entry.expires - now:+.1f} s from now", peer=peer)
    if not verify(peer, _message(peer, body), data[:SIGNATURE_SIZE]):
        raise BadRecord("the index entry is not signed by this peer", peer=peer)
    return entry


def may_name(data: bytes, model: str) -> bool:
    """Whether an unverified entry can be one of the model `model`: a cheap look that spares a signature's check."""
    return model.encode() in data[SIGNATURE_SIZE:]


def listed_models(entries: Iterable[IndexEntry], name: str | None, *, draw: Draw, now: float) -> tuple[ModelKey, ...]:
    """The models of the entries (those of one name, if given), ordered by name and digest.

    Of more than `MAX_MODELS` (`MAX_NAMESAKES` of one name), half are those that most peers list, and the others are
    drawn anew every few seconds: each turns up again and again, however many are made up.
    """
    peers = Counter(entry.model_key for entry in entries if name is None or entry.model == name)
    most = MAX_MODELS if name is None else MAX_NAMESAKES
    if len(peers) <= most:
        return tuple(sorted(peers))
    turn = draw.turn(now)
    drawn = sorted(peers, key=lambda key: draw.number("\n".join(key).encode(), turn))
    by_peers = sorted(drawn, key=lambda key: -peers[key])[: most // 2]
    return tuple(sorted(list(dict.fromkeys((*by_peers, *drawn)))[:most]))


def _message(peer: str, body: bytes) -> bytes:
    name = peer.encode()
    return b"".join((_DOMAIN, len(name).to_bytes(2, "big"), name, body))


def _body(data: bytes) -> bytes:
    if not SIGNATURE_SIZE < len(data) <= MAX_ENTRY_BYTES:
        raise BadRecord(f"an index entry of {len(data)} bytes")
    return data[SIGNATURE_SIZE:]


def _pack(entry: IndexEntry) -> bytes:
    values = {
        "digest": entry.digest,
        "expires": float(entry.expires),
        "gone": entry.gone,
        "model": entry.model,
        "sequence": entry.sequence,
        "v": _FORMAT,
    }
    return fields.pack(values, "an index entry")


def _parse(body: bytes, peer: str) -> IndexEntry:
    """Check every field of a body. Says nothing about the signature, the key or the time."""
    read = fields.unpack(body, peer, "the index entry")
    read.integer("v", _FORMAT, _FORMAT)
    entry = IndexEntry(
        peer=peer,
        model=read.text("model", NAME),
        digest=read.text("digest", DIGEST),
        sequence=read.integer("sequence", 0, (1 << 64) - 1),
        expires=read.number("expires", 0.0, 1e12),
        gone=read.boolean("gone"),
    )
    # One entry has one spelling: this also refuses unknown fields, another order and wide integers.
    if _pack(entry) != body:
        raise BadRecord("the index entry is not in canonical form", peer=peer)
    return entry
