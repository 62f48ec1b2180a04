"""The frame prefix: whatever bytes come, they are two lengths within the limits or a named error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import FrameTooLarge, ProtocolViolation
from mesh.wire.frame import GOODBYE, PREFIX, Frame, FrameLimits, decode_prefix, encode_prefix

LIMITS = FrameLimits(header=1000, payload=100_000)


@given(st.binary(max_size=1000), st.binary(max_size=2000))
def test_a_prefix_says_what_follows(header: bytes, payload: bytes) -> None:
    prefix = encode_prefix(Frame(header, payload), LIMITS)

    assert len(prefix) == PREFIX.size == 12
    assert decode_prefix(prefix, LIMITS) == (len(header), len(payload))


@given(st.binary(min_size=12, max_size=12))
def test_any_twelve_bytes_are_lengths_within_the_limits_or_refused(prefix: bytes) -> None:
    try:
        header, payload = decode_prefix(prefix, LIMITS)
    except ProtocolViolation:
        return
    assert header <= LIMITS.header
    assert payload <= LIMITS.payload


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_lengths_over_the_limit_are_refused(header: int, payload: int) -> None:
    prefix = PREFIX.pack(b"IM", 1, 0, header, payload)
    if header > LIMITS.header or payload > LIMITS.payload:
        with pytest.raises(FrameTooLarge):
            decode_prefix(prefix, LIMITS)
    else:
        assert decode_prefix(prefix, LIMITS) == (header, payload)


def test_what_the_peer_would_refuse_is_not_encoded() -> None:
    with pytest.raises(FrameTooLarge):
        encode_prefix(Frame(bytes(1001)), LIMITS)
    with pytest.raises(FrameTooLarge):
        encode_prefix(Frame(b"", bytes(100_001)), LIMITS)


def test_a_goodbye_is_not_a_frame() -> None:
    assert len(GOODBYE) == PREFIX.size
    with pytest.raises(ProtocolViolation):
        decode_prefix(GOODBYE, LIMITS)
