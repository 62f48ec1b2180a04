"""Provider records: signed, bounded, canonical."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.books import RecordBook
from mesh.discovery.records import (
    MAX_LIFETIME,
    MAX_RECORD_BYTES,
    MAX_SKEW,
    FileDigest,
    ModelKey,
    ProviderRecord,
    Stamper,
    claimed_model,
    decode_record,
    encode_record,
    peer_key,
    provider_key,
)
from mesh.errors import BadRecord, InternalError
from mesh.identity import Identity
from shards.model.span import Span
from tests.mesh.sample_record import NOW, sample_record

ME = Identity.generate()
RECORD = sample_record(ME.peer_id)
KEY = provider_key(RECORD.model_key)


def signed(body: bytes, *, key: bytes = KEY) -> bytes:
    """A body with a good signature, whatever is in it: what a hostile key owner can send."""
    name = ME.peer_id.encode()
    head = b"mesh provider record v1\n" + len(name).to_bytes(2, "big") + name + len(key).to_bytes(2, "big") + key
    return ME.sign(head + body) + body


def fields() -> dict[str, Any]:
    unpacked: dict[str, Any] = msgpack.unpackb(encode_record(RECORD, ME)[64:])
    return unpacked


def decode(data: bytes, **changes: Any) -> ProviderRecord:
    return decode_record(data, **({"peer": ME.peer_id, "key": KEY, "now": NOW} | changes))


records = st.builds(
    replace,
    st.just(RECORD),
    span=st.tuples(st.integers(0, 5), st.integers(6, 12)).map(lambda bounds: Span(*bounds)),
    state=st.sampled_from(["joining", "loading", "serving", "draining", "gone"]),
    throughput=st.floats(0, 1e9),
    queue_depth=st.integers(0, 1 << 20),
    kv_free_tokens=st.integers(0, 1 << 40),
    sequence=st.integers(0, (1 << 64) - 1),
    expires=st.floats(NOW + 0.001, NOW + MAX_LIFETIME),
    maddrs=st.lists(st.integers(1, 65535).map(lambda port: f"/ip4/127.0.0.1/tcp/{port}"), max_size=16).map(tuple),
)


@given(records)
def test_a_record_survives_the_wire(record: ProviderRecord) -> None:
    data = encode_record(record, ME)

    assert decode(data) == record
    assert claimed_model(data, peer=ME.peer_id) == ModelKey("tiny/llama", "ab" * 32)


def test_the_canonical_form_that_is_signed_by_hand_is_accepted() -> None:
    assert decode(signed(encode_record(RECORD, ME)[64:])) == RECORD


def test_a_record_may_stand_under_its_peers_own_key_too() -> None:
    key = peer_key(ME.peer_id)
    data = encode_record(RECORD, ME, key=key)

    assert decode(data, key=key) == RECORD
    with pytest.raises(BadRecord, match="not signed"):
        decode(data)
    with pytest.raises(BadRecord, match="not belong"):
        decode(data, key=peer_key(Identity.generate().peer_id))


def test_a_signature_is_good_for_one_peer_and_one_key_only() -> None:
    data = encode_record(RECORD, ME)
    with pytest.raises(BadRecord, match="not signed"):
        decode(data, peer=Identity.generate().peer_id)
    with pytest.raises(BadRecord, match="not signed"):
        decode(data, key=peer_key(ME.peer_id))
    with pytest.raises(BadRecord, match="not belong"):
        decode(signed(data[64:], key=b"mesh/1/other"), key=b"mesh/1/other")
    with pytest.raises(BadRecord):
        decode(data, peer="nobody")


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_forged_signature_is_refused(place: int, change: int) -> None:
    data = bytearray(encode_record(RECORD, ME))
    data[place] ^= change
    with pytest.raises(BadRecord, match="not signed"):
        decode(bytes(data))


@given(st.integers(64, len(encode_record(RECORD, ME)) - 1), st.integers(1, 255))
def test_a_changed_body_is_refused(place: int, change: int) -> None:
    data = bytearray(encode_record(RECORD, ME))
    data[place] ^= change
    with pytest.raises(BadRecord):
        decode(bytes(data))


@pytest.mark.parametrize("now", [NOW + 30, NOW + 31, NOW + 30 - MAX_LIFETIME - 1])
def test_an_expired_or_too_far_future_record_is_refused(now: float) -> None:
    with pytest.raises(BadRecord, match="expires"):
        decode(encode_record(RECORD, ME), now=now)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("model", ""),
        ("model", "x" * 201),
        ("model", "../etc"),
        ("model", b"bytes"),
        ("digest", "AB" * 32),
        ("digest", "ab" * 32 + "\n"),
        ("n_blocks", 0),
        ("n_blocks", 5000),
        ("n_blocks", True),
        ("span", [4, 4]),
        ("span", [4, 13]),
        ("span", [-1, 4]),
        ("span", [4]),
        ("span", [4, 5, 6]),
        ("span", [4.0, 5]),
        ("state", "king"),
        ("state", ["serving"]),
        ("sequence", -1),
        ("sequence", 1.0),
        ("expires", math.inf),
        ("expires", math.nan),
        ("expires", int(NOW) + 10),
        ("throughput", -1.0),
        ("throughput", math.nan),
        ("throughput", 1e10),
        ("queue_depth", -1),
        ("kv_free_tokens", 1 << 41),
        ("sessions", None),
        ("context_length", 0),
        ("vocab_size", 1 << 40),
        ("maddrs", ["/ip4/1.2.3.4/tcp/1"] * 17),
        ("maddrs", ["no slash"]),
        ("maddrs", "/ip4/1.2.3.4"),
        ("numerics", "<script>"),
        ("wire_dtype", ""),
        ("version", "v" * 65),
        ("files", {"../secret": ["ab" * 32, 1]}),
        ("files", {".hidden": ["ab" * 32, 1]}),
        ("files", {"config.json": ["ab" * 31, 1]}),
        ("files", {"config.json": ["ab" * 32, -1]}),
        ("files", {"config.json": ["ab" * 32, True]}),
        ("files", {"config.json": ["ab" * 32]}),
        ("files", {f"file{n}": ["ab" * 32, 1] for n in range(17)}),
        ("files", []),
    ],
)
def test_a_field_out_of_bounds_is_refused_though_well_signed(name: str, value: object) -> None:
    body = msgpack.packb(fields() | {name: value})
    with pytest.raises(BadRecord):
        decode(signed(body))


@pytest.mark.parametrize("name", sorted(fields()))
def test_no_field_may_be_missing(name: str) -> None:
    body = msgpack.packb({key: value for key, value in fields().items() if key != name})
    with pytest.raises(BadRecord):
        decode(signed(body))


def test_another_spelling_of_the_same_record_is_refused() -> None:
    good = fields()
    for body in (
        msgpack.packb(dict(reversed(good.items()))),
        msgpack.packb(good | {"zz": 1}),
        msgpack.packb(good) + b"\xc0",
        msgpack.packb(good).replace(b"\xa8sequence\x07", b"\xa8sequence\xcc\x07"),
    ):
        with pytest.raises(BadRecord):
            decode(signed(body))


@pytest.mark.parametrize("data", [b"", bytes(64), bytes(65), bytes(MAX_RECORD_BYTES), bytes(MAX_RECORD_BYTES + 1)])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(data)


@given(st.binary(max_size=300))
def test_any_signed_bytes_are_a_record_or_refused(body: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(signed(body))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    ),
    st.sampled_from(sorted(fields())),
)
def test_any_value_in_any_field_is_read_or_refused(value: object, name: str) -> None:
    body = msgpack.packb(fields() | {name: value})
    try:
        record = decode(signed(body))
    except BadRecord:
        return
    assert encode_record(record, ME)[64:] == body


def test_a_record_that_others_would_refuse_is_never_signed() -> None:
    for bad in (
        replace(RECORD, model="no such\nname"),
        replace(RECORD, span=Span(4, 13)),
        replace(RECORD, files={f"{'n' * 120}{n}": FileDigest("ab" * 32, 1) for n in range(17)}),
        replace(RECORD, peer=Identity.generate().peer_id),
    ):
        with pytest.raises(InternalError):
            encode_record(bad, ME)


def test_stamps_only_grow_even_when_the_clock_goes_back() -> None:
    stamper = Stamper(30.0)
    stamps = [stamper.stamp(RECORD, now=now) for now in (NOW, NOW, NOW + 1, NOW - 80, NOW + 2)]
    assert [s.sequence for s in stamps] == sorted({s.sequence for s in stamps})
    assert [s.expires for s in stamps] == sorted({s.expires for s in stamps})
    restarted = Stamper(30.0).stamp(RECORD, now=NOW + 3)
    assert restarted.sequence > stamps[-1].sequence
    assert restarted.expires > stamps[-1].expires


@pytest.mark.parametrize("jump", [3600.0, 600.0, 100.0])
def test_a_record_lives_as_usual_again_once_the_clock_that_was_ahead_is_right(jump: float) -> None:
    stamper = Stamper(30.0)
    before, wrong, right = (stamper.stamp(RECORD, now=now) for now in (NOW, NOW + jump, NOW + 20))
    assert before.sequence < wrong.sequence < right.sequence
    assert NOW + 20 < right.expires <= NOW + 20 + MAX_SKEW  # what others take


def test_a_book_forgets_what_it_took_while_the_clock_was_wrong() -> None:
    book = RecordBook[ProviderRecord](longest=MAX_SKEW)
    wrong = replace(RECORD, sequence=9, expires=NOW + 3630)
    assert book.offer(wrong, now=NOW + 3600)
    assert book.records(now=NOW) == ()
    right = replace(RECORD, sequence=8, expires=NOW + 30)
    assert book.offer(right, now=NOW)
    assert book.records(now=NOW) == (right,)
