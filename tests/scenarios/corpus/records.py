"""DHT records that strangers sign: hostile text and links in every field, well-formed as far as they can be, or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import msgpack

from mesh.discovery.index import IndexEntry, encode_entry, index_entry, index_key
from mesh.discovery.index import _message as entry_message
from mesh.discovery.index import _pack as entry_body
from mesh.discovery.records import (
    FileDigest,
    ModelKey,
    ProviderRecord,
    encode_record,
    peer_key,
    provider_key,
)
from mesh.discovery.records import _message as record_message
from mesh.discovery.records import _pack as record_body
from mesh.identity import Identity
from shards.model.span import Span
from tests.chain.shells import hostile

LIFETIME = 100.0
"""Seconds; nobody believes a record that lives for more than two minutes."""

NAMES = (
    *("a/../../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "javascript:alert"),
    *("c:/windows/system32/con", "A" * 200, "a" + "/" * 199, "null", "NaN", "0", "constructor", "models--org--x/../.."),
)
MADDRS = (
    *("/ip4/169.254.169.254/tcp/80", "/dns4/localhost/tcp/22", "/unix/tmp/socket", "/ip4/256.0.0.1/tcp/99999"),
    *("/ip4/127.0.0.1/tcp/0", "/p2p-circuit", "/ip6/::1/tcp/1/p2p-circuit", "/%s%n%x", "/" + "a" * 255, "/../../etc"),
)
Entry = tuple[bytes, str, bytes, float]
"""DHT key, subkey, signed value, expiry (Unix time)."""


@dataclass(frozen=True)
class Signed:
    """One item: what it is, and how it is stored."""

    name: str
    entries: tuple[Entry, ...]


def _record(identity: Identity, model: ModelKey, **changes: Any) -> ProviderRecord:
    now = time.time()
    plain = ProviderRecord(
        identity.peer_id, *model, 4, Span(0, 4), "serving", 512, 300,
        throughput=1.0, sequence=int(now * 1000), expires=now + LIFETIME,
    )  # fmt: skip
    return replace(plain, **changes)


def _stored(name: str, identity: Identity, record: ProviderRecord) -> Signed:
    """As a provider stores itself: under its model's key, in the index, and under a key of its own."""
    keys = (provider_key(record.model_key), peer_key(record.peer))
    entries = [(key, record.peer, encode_record(record, identity, key=key), record.expires) for key in keys]
    entries.append((index_key(record.peer), record.peer, encode_entry(index_entry(record), identity), record.expires))
    return Signed(name, tuple(entries))


def well_formed(honest: ModelKey, port: int) -> list[Signed]:
    """Records that every node takes. Some are of the honest model; `port` is one of the victim's own machine."""
    other = ModelKey("x", "ef" * 32)
    large = {f"tokenizer{number}.json": FileDigest("ab" * 32, (1 << 31) - 1) for number in range(16)}
    changes: list[tuple[str, ModelKey, dict[str, Any]]] = [
        *((f"the name {name[:40]}", ModelKey(name, sha256(name.encode()).hexdigest()), {}) for name in NAMES),
        *((f"the address {maddr[:40]}", other, {"maddrs": (maddr,)}) for maddr in MADDRS),
        ("an address of our own machine", other, {"maddrs": (f"/ip4/127.0.0.1/tcp/{port}",)}),
        ("sixteen long addresses", honest, {"maddrs": tuple(f"/{n:x}" + "a" * 250 for n in range(16))}),
        ("more blocks than there are", honest, {"n_blocks": 4096, "span": Span(0, 4096)}),
        ("the last of many blocks", honest, {"n_blocks": 4096, "span": Span(4095, 4096)}),
        ("the fastest there may be", honest, {"throughput": 1e9, "link_rate": 1e9, "max_blocks": 4096}),
        ("a context without end", honest, {"context_length": 1 << 31, "kv_free_tokens": 1 << 40}),
        ("a vocabulary without end", honest, {"vocab_size": 1 << 31}),
        ("full for ever", honest, {"queue_depth": 1 << 20, "sessions": 1 << 20}),
        ("files of two gigabytes", honest, {"files": large}),
        ("a tokenizer of two gigabytes", honest, {"files": {"tokenizer.json": FileDigest("ab" * 32, (1 << 31) - 1)}}),
        ("a file called con", honest, {"files": {"con": FileDigest("ab" * 32, 0)}}),
        ("noise for an account", honest, {"account": bytes(range(256)) * 4}),
        (
            "words of punctuation",
            honest,
            {"version": "0" + ":=,+/-." * 9, "numerics": "0=,=,=", "wire_dtype": "x/../y"},
        ),
        ("always joining", honest, {"state": "joining"}),
        ("always draining", honest, {"state": "draining"}),
    ]
    made = []
    for name, model, fields in changes:
        identity = Identity.generate()
        made.append(_stored(name, identity, _record(identity, model, **fields)))
    return made


def malformed(honest: ModelKey) -> list[Signed]:
    """Records, rightly signed, that nobody should take: under the honest model's key, and in the index."""
    return [_raw(name, honest, change) for name, change in _changes()] + [
        _raw_entry(name, text) for name, text in _texts("a name in the index")
    ]


def _texts(what: str) -> Iterator[tuple[str, Any]]:
    """Every third of the chain's hostile strings: as text where it is text, else as bytes."""
    for number, data in enumerate(dict.fromkeys(hostile.NAMES)):
        if number % 3 == 0:
            try:
                yield f"{what}: {data!r}", data.decode()
            except UnicodeDecodeError:
                yield f"{what}: {data!r}", data


def _changes() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    """What becomes of a record's fields before they are packed; bytes stand for the whole body."""
    fields = ("model", "version", "numerics", "wire_dtype", "digest", "state", "maddrs", "files")
    for number, (name, text) in enumerate(_texts("text")):
        field = fields[number % len(fields)]
        value: Any = [text] if field == "maddrs" else {text: ["ab" * 32, 1]} if field == "files" else text
        yield f"{name} as {field}", lambda map, field=field, value=value: {**map, field: value}
    for name, number_ in (("infinity", float("inf")), ("no number", float("nan")), ("below nothing", -1.0)):
        yield f"a throughput of {name}", lambda map, value=number_: {**map, "throughput": value}
    for count in (-1, 1 << 63, (1 << 64) - 1):
        yield f"{count} sessions", lambda map, value=count: {**map, "sessions": value}
    yield "a span upside down", lambda map: {**map, "span": [4, 0]}
    yield "a span of a thousand", lambda map: {**map, "span": list(range(1000))}
    yield "a field that nobody knows", lambda map: {**map, "__class__": "x"}
    yield "a field too few", lambda map: {key: value for key, value in map.items() if key != "model"}
    yield "a thousand fields", lambda map: map | {f"f{number}": 0 for number in range(1000)}
    yield "lists inside lists", lambda map: b"\x91" * 7000
    yield "maps inside maps", lambda map: b"\x81\xa1a" * 2500
    yield "a list of four thousand million", lambda map: b"\xdd\xff\xff\xff\xff"
    yield "text of four gigabytes", lambda map: b"\xdb\xff\xff\xff\xff"
    yield "nothing", lambda map: b""
    yield "a type of our own", lambda map: b"\xc7\x08\x05" + bytes(8)
    yield "more than there is room for", lambda map: {**map, "account": bytes(20_000)}


def _raw(name: str, honest: ModelKey, change: Callable[[dict[str, Any]], Any]) -> Signed:
    identity = Identity.generate()
    record = _record(identity, honest)
    changed = change(msgpack.unpackb(record_body(record)))
    body = changed if isinstance(changed, bytes) else msgpack.packb(changed)
    entries = tuple(
        (key, record.peer, identity.sign(record_message(record.peer, key, body)) + body, record.expires)
        for key in (provider_key(honest), peer_key(record.peer))
    )
    return Signed(name, entries)


def _raw_entry(name: str, text: Any) -> Signed:
    identity = Identity.generate()
    now = time.time()
    entry = IndexEntry(identity.peer_id, "x", "ab" * 32, int(now * 1000), now + LIFETIME)
    body = msgpack.packb({**msgpack.unpackb(entry_body(entry)), "model": text})
    data = identity.sign(entry_message(entry.peer, body)) + body
    return Signed(name, ((index_key(entry.peer), entry.peer, data, entry.expires),))
