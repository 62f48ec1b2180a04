"""The native path refuses what does not fit a session, before any cache has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.checkpoint.folder import Checkpoint
from shards.errors import BadActivation, CapacityExceeded, CheckpointError, UnsupportedModel
from shards.model.loading import choose_dtype, load_stage
from shards.model.span import Span
from shards.model.stage import Piece, StageModel
from tests.shards.models import make_checkpoint

torch.set_num_threads(1)
HIDDEN = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def first(folder: Path) -> StageModel:
    return load_stage(Checkpoint.open(folder), Span(0, 2))


@pytest.fixture(scope="module")
def middle(folder: Path) -> StageModel:
    return load_stage(Checkpoint.open(folder), Span(2, 4))


@pytest.mark.parametrize("token", [-1, 300, 1 << 40])
def test_a_token_outside_the_vocabulary_is_refused(first: StageModel, token: int) -> None:
    cache = first.new_cache(first.span, 8)
    with pytest.raises(BadActivation, match="vocabulary of 300"):
        first.forward([Piece(cache, 0, torch.tensor([3, token]))])
    assert cache.length == 0


@pytest.mark.parametrize(
    "tokens",
    [
        torch.tensor([[1]]),
        torch.tensor([1.0]),
        torch.tensor([1], dtype=torch.int32),
        torch.tensor([], dtype=torch.int64),
    ],
    ids=["two dimensions", "floats", "int32", "none"],
)
def test_tokens_that_are_not_a_row_of_ids_are_refused(first: StageModel, tokens: torch.Tensor) -> None:
    with pytest.raises(BadActivation):
        first.forward([Piece(first.new_cache(first.span, 8), 0, tokens)])


@pytest.mark.parametrize(
    "hidden",
    [
        torch.zeros(1, HIDDEN + 1),
        torch.zeros(HIDDEN),
        torch.zeros(1, 1, HIDDEN),
        torch.zeros(1, HIDDEN, dtype=torch.int64),
        torch.zeros(0, HIDDEN),
    ],
    ids=["too wide", "one dimension", "three dimensions", "integers", "no rows"],
)
def test_hidden_states_of_the_wrong_shape_are_refused(middle: StageModel, hidden: torch.Tensor) -> None:
    cache = middle.new_cache(middle.span, 8)
    with pytest.raises(BadActivation):
        middle.forward([Piece(cache, 0, hidden=hidden)])
    assert cache.length == 0


def test_tokens_in_the_middle_and_hidden_states_at_the_start_are_refused(first: StageModel, middle: StageModel) -> None:
    with pytest.raises(BadActivation, match="hidden states"):
        middle.forward([Piece(middle.new_cache(middle.span, 8), 0, torch.tensor([1]))])
    with pytest.raises(BadActivation, match="token ids"):
        first.forward([Piece(first.new_cache(first.span, 8), 0, hidden=torch.zeros(1, HIDDEN))])


def test_a_piece_with_both_or_neither_input_is_refused(first: StageModel) -> None:
    cache = first.new_cache(first.span, 8)
    for piece in (Piece(cache, 0), Piece(cache, 0, torch.tensor([1]), torch.zeros(1, HIDDEN))):
        with pytest.raises(BadActivation, match="either tokens or hidden"):
            first.forward([piece])


@pytest.mark.parametrize("start", [0, 2, 4])
def test_a_piece_that_does_not_start_where_the_session_ends_is_refused(first: StageModel, start: int) -> None:
    cache = first.new_cache(first.span, 8)
    first.forward([Piece(cache, 0, torch.tensor([1, 2, 3]))])
    with pytest.raises(BadActivation, match="holds 3"):
        first.forward([Piece(cache, start, torch.tensor([1]))])
    assert cache.length == 3


def test_more_tokens_than_the_cache_holds_are_refused_and_no_session_grows(first: StageModel) -> None:
    roomy, full = first.new_cache(first.span, 8), first.new_cache(first.span, 2)
    first.forward([Piece(full, 0, torch.tensor([1, 2]))])
    with pytest.raises(CapacityExceeded):
        first.forward([Piece(roomy, 0, torch.tensor([1])), Piece(full, 2, torch.tensor([1]))])
    assert (roomy.length, full.length) == (0, 2)


def test_one_session_twice_in_a_micro_batch_is_refused(first: StageModel) -> None:
    cache = first.new_cache(first.span, 8)
    with pytest.raises(BadActivation, match="two pieces"):
        first.forward([Piece(cache, 0, torch.tensor([1])), Piece(cache, 0, torch.tensor([2]))])


def test_caches_of_different_spans_in_a_micro_batch_are_refused(first: StageModel) -> None:
    whole, part = first.new_cache(Span(0, 2), 8), first.new_cache(Span(0, 1), 8)
    with pytest.raises(BadActivation, match="micro-batch over 0:2"):
        first.forward([Piece(whole, 0, torch.tensor([1])), Piece(part, 0, torch.tensor([1]))])


def test_a_cache_over_blocks_that_the_stage_lacks_is_refused(first: StageModel) -> None:
    with pytest.raises(CapacityExceeded, match="serves blocks 0:2"):
        first.new_cache(Span(1, 3), 8)


def test_a_cache_without_room_or_beyond_memory_is_refused(first: StageModel) -> None:
    for capacity in (0, -1, 1 << 50):
        with pytest.raises(CapacityExceeded):
            first.new_cache(first.span, capacity)


@pytest.mark.parametrize("length", [-1, 4])
def test_a_session_cannot_be_cut_where_it_has_not_been(first: StageModel, length: int) -> None:
    cache = first.new_cache(first.span, 8)
    first.forward([Piece(cache, 0, torch.tensor([1, 2, 3]))])
    with pytest.raises(BadActivation):
        cache.truncate(length)
    assert cache.length == 3


def test_an_empty_micro_batch_gives_nothing(first: StageModel) -> None:
    assert first.forward([]) == []


def test_blocks_that_the_model_lacks_cannot_be_loaded(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="model of 5 blocks"):
        load_stage(Checkpoint.open(folder), Span(4, 6))


def test_the_dtype_follows_device_and_checkpoint() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu, "bfloat16") == torch.float32
    assert choose_dtype("auto", cuda, "bfloat16") == torch.bfloat16
    assert choose_dtype("auto", cuda, "float32") == torch.float32
    assert choose_dtype("float16", cpu, "float32") == torch.float16
    assert choose_dtype(torch.bfloat16, cpu, "float32") == torch.bfloat16
    for wrong in ("int8", torch.int64):
        with pytest.raises(UnsupportedModel, match="compute dtype"):
            choose_dtype(wrong, cpu, "float32")
