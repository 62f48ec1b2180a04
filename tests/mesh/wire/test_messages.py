"""Messages: what is encoded is what is decoded, and nothing else is."""

from __future__ import annotations

import random
import time
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from mesh.errors import ProtocolViolation
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    HEADER_LIMIT,
    MAX_TOKENS,
    Message,
    NewTokens,
    NextTokens,
    OpenSession,
    Ping,
    decode,
    encode,
)
from tests.mesh.wire.messages import BY_KIND, ID, SAMPLES, messages

by_name = pytest.mark.parametrize("message", SAMPLES, ids=lambda message: message.kind)


def header_of(message: Message, **changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = msgpack.unpackb(encode(message).header)
    return raw | changes


def decode_map(raw: Any) -> Message:
    return decode(Frame(msgpack.packb(raw)))


def test_the_samples_are_of_every_kind() -> None:
    assert [type(message) for message in SAMPLES] == list(BY_KIND)


@settings(max_examples=300, deadline=None)
@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@by_name
def test_every_field_without_a_default_is_needed_and_no_other_is_allowed(message: Message) -> None:
    for field in fields(message):
        raw = header_of(message)
        del raw[field.name]
        if field.required:
            with pytest.raises(ProtocolViolation, match=f"missing required field `{field.name}`"):
                decode_map(raw)
        else:
            assert getattr(decode_map(raw), field.name) == field.default
    with pytest.raises(ProtocolViolation, match="unknown field `surprise`"):
        decode_map(header_of(message, surprise=1))


WRONG: tuple[Any, ...] = (
    None, True, -1, 1 << 63, 1.5, float("nan"), float("inf"), "text", b"bytes", [], [[]], [None], {}, {"a": 1},
    [[b"x" * 16, 0, 0]], b"x" * 17, "x" * 3000, [1 << 40], [[[[]]]],
)  # fmt: skip


@by_name
def test_a_wrong_value_is_refused_or_read_as_itself(message: Message) -> None:
    """No field is coerced: what is read goes out again as it came."""
    for field in fields(message):
        for wrong in WRONG:
            raw = header_of(message, **{field.name: wrong})
            try:
                read = decode_map(raw)
            except ProtocolViolation:
                continue
            assert header_of(read) == raw


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (NewTokens(ID, 1, ((5, None, ()),), None, 0), {"tokens": [[5, None, []], [6, None, []]]}),
        (NewTokens(ID, 1, ((5, None, ()),), None, 0), {"tokens": []}),
        (NewTokens(ID, 1, ((5, None, ()),), None, 0), {"drafted": 16, "tokens": [[5, None, []]] * 17}),
        (NextTokens(((ID, 1, 5),)), {"drafts": [[6], [7]]}),
        (NextTokens(((ID, 1, 5),)), {"drafts": [[6] * 16]}),
        (NextTokens(((ID, 1, 5), (ID, 2, 5))), {"drafts": [[6]]}),
        (NextTokens(((ID, 1, 5),)), {"drafts": [[-1]]}),
    ],
)
def test_more_tokens_than_guesses_and_guesses_for_other_parts_are_refused(
    message: Message, changes: dict[str, Any]
) -> None:
    with pytest.raises(ProtocolViolation):
        decode_map(header_of(message, **changes))


def test_frames_of_who_knows_no_guesses_are_read() -> None:
    old = header_of(NextTokens(((ID, 1, 5),)))
    del old["drafts"]
    assert decode_map(old) == NextTokens(((ID, 1, 5),))


@pytest.mark.parametrize(
    "changes",
    [
        {"session": ID[:15]},
        {"session": ID.hex()},
        {"prompt_tokens": 0},
        {"capacity": MAX_TOKENS + 1},
        {"start": -1},
        {"end": (1 << 16) + 1},
        {"end": True},
        {"wire_dtype": "float64"},
        {"digest": "a" * 65},
        {"previous": "a" * 81},
        {"eos": [1] * 65},
        {"eos": [1 << 31]},
        {"logit_bias": [[1, 1.0]] * 1025},
        {"logit_bias": [[1, 100.5]]},
        {"logit_bias": [[1, 1.0, 1.0]]},
        {"sampling": []},
        {"sampling": [0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, None]},
        {"sampling": [float("nan"), 0, 1.0, 0.0, 1.0, 0.0, 0.0, None, 0]},
        {"sampling": [0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 33, 0]},
        {"sampling": [0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.0, None, 0]},
    ],
)
def test_an_opening_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    assert isinstance(SAMPLES[0], OpenSession)
    with pytest.raises(ProtocolViolation, match=next(iter(changes))):
        decode_map(header_of(SAMPLES[0], **changes))


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"t": "nonsense"},
        {"t": None},
        {"t": ["open"]},
        {"t": b"ping", "nonce": 1},
        {"t": "ping", "nonce": 1, b"x": 2},
        [],
        "ping",
        None,
        {"t": "act", "parts": []},
        {"t": "next", "parts": []},
        {"t": "act", "parts": [[ID, 0, 1]] * 4097},
        {"t": "act", "parts": [[ID, 0, 0]]},
        {"t": "next", "parts": [[ID, 0, -1]]},
    ],
)
def test_what_is_no_message_is_refused(raw: Any) -> None:
    with pytest.raises(ProtocolViolation):
        decode_map(raw)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        msgpack.packb({"t": "ping", "nonce": 1}) + b"\x00",
        b"\x82\xa1t\xa4ping\xa5nonce\xd6\xff\x00\x00\x00\x00",
        b"\x82\xa1t\xa4ping\xa5nonce\xc7\x00\x05",
        b"\x81\xa1t\xa2\xff\xfe",
        b"\x91" * 10_000 + b"\x01",
        b"\x82\xa1t\xa4ping\xa5nonce" + b"\x91" * 600 + b"\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x7f\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x82\xa1t\xa3act\xa5parts\xdd\x00\xff\xff\xff",
    ],
    ids=["empty", "reserved", "trailing", "timestamp", "extension", "not-utf8", "deep", "deep-value",
         "huge-map", "huge-array", "huge-bytes", "huge-inner"],
)  # fmt: skip
def test_what_is_not_one_plain_map_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(Frame(header))


def test_a_header_over_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(ProtocolViolation, match="over the limit"):
        decode(Frame(bytes(HEADER_LIMIT + 1)))


def test_a_payload_comes_only_where_one_belongs() -> None:
    carries = {message.kind for message in SAMPLES if _takes_payload(message)}
    assert carries == {"open", "prompt", "file", "act", "hello"}


def _takes_payload(message: Message) -> bool:
    try:
        return decode(encode(message, b"1234")) == message
    except ProtocolViolation:
        return False


def test_tens_of_thousands_of_mutated_headers_raise_nothing_but_violations() -> None:
    numbers = random.Random(20)
    headers = [encode(message).header for message in SAMPLES]
    began = time.perf_counter()
    refused = 0
    for _ in range(40_000):
        header = bytearray(numbers.choice(headers))
        for _ in range(numbers.choice((1, 1, 2, 5))):
            place = numbers.randrange(len(header))
            match numbers.randrange(5):
                case 0:
                    header[place] = numbers.randrange(256)
                case 1:
                    header[place] ^= 1 << numbers.randrange(8)
                case 2:
                    del header[place : place + numbers.randrange(1, 9)]
                case 3:
                    header[place:place] = numbers.randbytes(numbers.randrange(1, 9))
                case _:
                    other = numbers.choice(headers)
                    header[place:] = other[numbers.randrange(len(other)) :]
            header = header or bytearray(b"\x00")
        try:
            message = decode(Frame(bytes(header)))
        except ProtocolViolation:
            refused += 1
        else:
            assert decode(encode(message)) == message
    assert refused > 20_000
    assert time.perf_counter() - began < 30


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_violation(header: bytes) -> None:
    try:
        decode(Frame(header))
    except ProtocolViolation:
        pass


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_any_field_is_read_or_a_violation(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from([sample for sample in SAMPLES if fields(sample)]))
    name = data.draw(st.sampled_from([field.name for field in fields(message)]))
    try:
        decode_map(header_of(message, **{name: data.draw(plain)}))
    except ProtocolViolation as error:
        assert name in str(error)
        assert len(str(error)) < 300


def test_a_violation_does_not_repeat_what_a_stranger_sent_at_length() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_map({"t": "ping", "nonce": "x" * 100_000})
    assert len(str(caught.value)) < 300
    with pytest.raises(ProtocolViolation) as caught:
        decode_map({"t": "ping", "nonce": 1} | {f"f{i}" * 40: 1 for i in range(500)})
    assert len(str(caught.value)) < 300


def test_a_ping_is_a_few_bytes() -> None:
    assert len(encode(Ping(1)).header) < 20
