"""Payloads: token ids, hidden states and sampling parameters come out as they went in, or are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import BadTensor
from mesh.provider.stage.frames import WIRE_DTYPES, hidden_payload, split_hidden
from mesh.wire.messages import OpenSession, decode, encode
from mesh.wire.sampling import from_wire, to_wire
from mesh.wire.tokens import read_tokens, token_payload
from shards.engine.sampling_params import SamplingParams
from shards.errors import InvalidSampling
from tests.mesh.wire.messages import SAMPLES

torch.set_num_threads(1)


@given(st.lists(st.integers(0, 299), max_size=50), st.sampled_from((bytes, bytearray, memoryview)))
def test_token_ids_survive(ids: list[int], kind: type) -> None:
    assert read_tokens(kind(token_payload(ids)), len(ids), 300) == ids


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b"", 1),
        (b"\x00" * 5, 1),
        (b"\x00" * 8, 1),
        (b"\x00" * 4, 2),
        (token_payload([300]), 1),
        (token_payload([-1]), 1),
        (token_payload([5, (1 << 31) - 1]), 2),
    ],
)
def test_token_ids_of_the_wrong_number_or_outside_the_vocabulary_are_refused(payload: bytes, count: int) -> None:
    with pytest.raises(BadTensor):
        read_tokens(payload, count, 300)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    width=st.integers(1, 20),
    name=st.sampled_from(sorted(WIRE_DTYPES)),
    kind=st.sampled_from((bytes, bytearray, memoryview)),
)
def test_hidden_states_of_several_sessions_share_a_payload(
    counts: list[int], width: int, name: str, kind: type
) -> None:
    dtype = WIRE_DTYPES[name]
    pieces = [torch.randn(count, width).to(dtype) for count in counts]

    payload = hidden_payload(pieces)
    found = split_hidden(kind(payload.tobytes()), counts, width, dtype)

    assert len(payload) == sum(counts) * width * dtype.itemsize
    assert all(torch.equal(one, other) for one, other in zip(pieces, found, strict=True))


def test_slices_of_a_larger_tensor_are_sent_as_they_are() -> None:
    wide = torch.arange(24.0).view(4, 6)
    piece = wide[1:3, :4]
    (found,) = split_hidden(hidden_payload([piece]).tobytes(), [2], 4, torch.float32)
    assert torch.equal(found, piece)


@pytest.mark.parametrize("size", [0, 1, 47, 49, 96, 1 << 16])
def test_hidden_states_of_the_wrong_size_are_refused(size: int) -> None:
    with pytest.raises(BadTensor):
        split_hidden(bytes(size), [3], 4, torch.float32)


@pytest.mark.parametrize("counts", [[], [0], [2, 0], [3, -1]])
def test_hidden_states_without_tokens_are_refused(counts: list[int]) -> None:
    with pytest.raises(BadTensor):
        split_hidden(bytes(sum(counts) * 16), counts, 4, torch.float32)


def test_a_huge_count_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(BadTensor):
        split_hidden(b"\x00" * 16, [1 << 24] * 4096, 1 << 16, torch.float32)


def test_a_small_piece_does_not_keep_a_large_payload_alive() -> None:
    small, large = split_hidden(bytearray(1001 * 16), [1, 1000], 4, torch.float32)
    assert small.untyped_storage().nbytes() == 16
    assert large.untyped_storage().nbytes() == 1001 * 16


params = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 1 << 31),
    top_p=st.floats(0.001, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.001, 100),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, (1 << 31) - 1), st.floats(-100, 100), max_size=9),
    logprobs=st.none() | st.integers(0, 20),
    seed=st.integers(0, (1 << 64) - 1),
)


def over_the_wire(sampling: SamplingParams) -> SamplingParams:
    fixed, bias = to_wire(sampling)
    opening = SAMPLES[0]
    assert isinstance(opening, OpenSession)
    values = {name: getattr(opening, name) for name in OpenSession.__slots__}
    read = decode(encode(OpenSession(**(values | {"sampling": fixed, "logit_bias": bias}))))
    assert isinstance(read, OpenSession)
    return from_wire(read.sampling, read.logit_bias)


@given(params)
def test_sampling_parameters_survive_the_wire(sampling: SamplingParams) -> None:
    assert over_the_wire(sampling) == sampling


def test_a_top_k_past_every_vocabulary_does_not_offend_the_hop() -> None:
    assert over_the_wire(SamplingParams(top_k=1 << 60)).top_k == 1 << 31


def test_parameters_that_the_wire_allows_but_the_model_does_not_are_refused() -> None:
    fixed, bias = to_wire(SamplingParams())
    for place, wrong in ((2, 0.0), (4, 0.0), (7, 21)):
        changed = (*fixed[:place], wrong, *fixed[place + 1 :])
        with pytest.raises(InvalidSampling):
            from_wire(changed, bias)
