"""The assembly of frames: any pieces, any sizes, the same frames; never more room than it has."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.transport.direct.assembly import IN_PLACE, STAGING, FrameAssembly
from mesh.wire.frame import GOODBYE, PREFIX, Frame, FrameLimits

LIMITS = FrameLimits(header=100_000, payload=300_000)
sizes = st.sampled_from([0, 1, 11, 12, 13, 4096, IN_PLACE, IN_PLACE + 1, STAGING - 12, STAGING, STAGING + 1, 200_000])


def feed(assembly: FrameAssembly, data: bytes, pieces: list[int]) -> list[Frame]:
    """Give `data` in pieces of the given sizes (again and again), and take out what is whole whenever it may be."""
    frames: list[Frame] = []
    position, turn = 0, 0
    while position < len(data):
        buffer = assembly.buffer()
        assert len(buffer) > 0
        count = min(len(buffer), pieces[turn % len(pieces)], len(data) - position)
        turn += 1
        buffer[:count] = data[position : position + count]
        position += count
        if assembly.filled(count):
            while (frame := assembly.next(LIMITS)) is not None:
                frames.append(frame)
    return frames


@given(
    st.lists(st.tuples(st.integers(0, 70_000), sizes), max_size=8),
    st.lists(st.sampled_from([1000, 4095, 16_384, 65_536, 1 << 20]), min_size=1, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, int]], pieces: list[int]) -> None:
    sent = [(b"h" * header, bytes([number + 1]) * payload) for number, (header, payload) in enumerate(frames)]
    data = b"".join(PREFIX.pack(b"IM", 1, 0, len(h), len(p)) + h + p for h, p in sent) + GOODBYE
    assembly = FrameAssembly()
    assert [(f.header, bytes(f.payload)) for f in feed(assembly, data, pieces)] == sent
    assert assembly.ended
    assert not assembly.begun


@given(st.binary(min_size=1, max_size=400))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    assembly = FrameAssembly()
    try:
        feed(assembly, data, [7])
    except ProtocolViolation:
        pass


def test_it_is_full_before_it_has_no_room() -> None:
    assembly = FrameAssembly()
    data = PREFIX.pack(b"IM", 1, 0, 0, 10) * 6000
    position = 0
    while not assembly.full:
        buffer = assembly.buffer()
        buffer[:1000] = data[position : position + 1000]
        assembly.filled(1000)
        position += 1000
    assert position < STAGING
    assert len(assembly.buffer()) > 0


def test_a_frame_over_the_limit_is_refused_at_its_prefix() -> None:
    assembly = FrameAssembly()
    with pytest.raises(ProtocolViolation):
        feed(assembly, PREFIX.pack(b"IM", 1, 0, 0, LIMITS.payload + 1), [12])
    assert assembly.expected == 0
