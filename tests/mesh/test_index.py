"""Entries of the index: small, signed, in shards; and which models a reader makes of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.index import (
    INDEX_KEYS,
    MAX_ENTRY_BYTES,
    MAX_MODELS,
    MAX_NAMESAKES,
    IndexEntry,
    decode_entry,
    encode_entry,
    index_entry,
    index_key,
    listed_models,
    may_name,
)
from mesh.discovery.places import DRAW_SECONDS, Draw
from mesh.discovery.records import MAX_LIFETIME, ModelKey
from mesh.errors import BadRecord, InternalError
from mesh.identity import Identity
from tests.mesh.sample_record import NOW, sample_record

ME = Identity.generate()
KEY = index_key(ME.peer_id)
ENTRY = index_entry(sample_record(ME.peer_id))


def decode(data: bytes, **changes: Any) -> IndexEntry:
    return decode_entry(data, **({"peer": ME.peer_id, "key": KEY, "now": NOW} | changes))


def signed(body: bytes) -> bytes:
    """A body with a good signature, whatever is in it: what a hostile key owner can send."""
    name = ME.peer_id.encode()
    return ME.sign(b"mesh index entry v1\n" + len(name).to_bytes(2, "big") + name + body) + body


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}", fullmatch=True),
    st.integers(0, (1 << 64) - 1),
    st.floats(NOW + 0.001, NOW + MAX_LIFETIME),
    st.booleans(),
)
def test_an_entry_survives_the_wire_and_is_small(model: str, sequence: int, expires: float, gone: bool) -> None:
    entry = IndexEntry(ME.peer_id, model, "ab" * 32, sequence, expires, gone)
    data = encode_entry(entry, ME)
    assert decode(data) == entry
    assert len(data) <= MAX_ENTRY_BYTES
    assert decode(signed(data[64:])) == entry
    assert may_name(data, model)


def test_an_entry_that_is_too_large_is_refused_however_well_it_is_signed() -> None:
    fields = msgpack.unpackb(encode_entry(ENTRY, ME)[64:])
    for bad in (fields | {"more": "x" * 8000}, fields | {"model": "m" * 8000}, fields | {"files": {}}):
        with pytest.raises(BadRecord):
            decode(signed(msgpack.packb(dict(sorted(bad.items())))))


def test_a_signature_is_good_for_one_peer_and_its_shard_only() -> None:
    data = encode_entry(ENTRY, ME)
    other = Identity.generate()
    with pytest.raises(BadRecord, match="not signed"):
        decode(data, peer=other.peer_id, key=index_key(other.peer_id))
    for key in {*INDEX_KEYS, b"mesh/1/models"} - {KEY}:
        with pytest.raises(BadRecord, match="not belong"):
            decode(data, key=key)
    for now in (ENTRY.expires, ENTRY.expires + 1, ENTRY.expires - MAX_LIFETIME - 1):
        with pytest.raises(BadRecord, match="expires"):
            decode(data, now=now)
    for place in range(len(data)):
        with pytest.raises(BadRecord):
            decode(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])
        with pytest.raises(BadRecord):
            decode(data[:place])


def test_an_entry_that_others_would_refuse_is_never_signed() -> None:
    for bad in (replace(ENTRY, model="no such\nname"), replace(ENTRY, digest="x"), replace(ENTRY, peer="nobody")):
        with pytest.raises(InternalError):
            encode_entry(bad, ME)


def test_peers_are_spread_evenly_over_the_shards() -> None:
    counts = Counter(index_key(Identity.generate().peer_id) for _ in range(800))
    assert set(counts) == set(INDEX_KEYS)
    assert max(counts.values()) < 200


def entry(peer: int, name: str, digest: int = 0) -> IndexEntry:
    return IndexEntry(f"peer-{peer}", name, f"{digest:064x}", 1, NOW + 30)


def test_few_models_are_all_listed_in_order() -> None:
    entries = [entry(n, f"model-{n % 50:02}") for n in range(200)]
    listed = listed_models(entries, None, draw=Draw(), now=NOW)
    assert [key.name for key in listed] == [f"model-{n:02}" for n in range(50)]
    assert listed_models(entries, "model-07", draw=Draw(), now=NOW) == (ModelKey("model-07", f"{0:064x}"),)
    assert listed_models(entries, "other", draw=Draw(), now=NOW) == ()


def test_a_model_whose_name_one_knows_is_found_among_any_number_of_invented_ones() -> None:
    entries = [*(entry(n, f"invented-{n}") for n in range(20_000)), entry(-1, "honest")]
    assert listed_models(entries, "honest", draw=Draw(), now=NOW) == (ModelKey("honest", f"{0:064x}"),)


@pytest.mark.parametrize("name", [None, "model"])
def test_of_too_many_models_those_with_most_peers_stay_and_every_other_comes_up_in_time(name: str | None) -> None:
    most = MAX_MODELS if name is None else MAX_NAMESAKES

    def invented(n: int) -> IndexEntry:
        return entry(n, "model", n) if name else entry(n, f"invented-{n}")

    popular = [entry(10_000 + n, "model", 10_000) for n in range(3)]
    rare = entry(20_000, "model", 20_000)
    entries = [*(invented(n) for n in range(2 * most)), *popular, rare]
    draw, rare_seen = Draw(), 0
    for turn in range(40):
        listed = listed_models(entries, name, draw=draw, now=NOW + turn * DRAW_SECONDS)
        assert len(listed) == most
        assert popular[0].model_key in listed
        rare_seen += rare.model_key in listed
    assert rare_seen >= 2
