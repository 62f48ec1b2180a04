"""The native path refuses what does not fit a session, before any cache has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shards.checkpoint.folder import Checkpoint
from shards.errors import BadActivation, CapacityExceeded, CheckpointError, UnsupportedModel
from shards.model.loading import choose_dtype, load_stage
from shards.model.span import Span
from shards.model.stage import StageModel
from tests.shards.models import make_checkpoint
from tests.shards.stages import Memory, forward

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
    with pytest.raises(BadActivation, match="vocabulary of 300"):
        first.forward([Memory(first).session(8).piece(torch.tensor([3, token]))])


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
        first.forward([Memory(first).session(8).piece(tokens)])


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
    with pytest.raises(BadActivation):
        middle.forward([Memory(middle).session(8).piece(hidden=hidden)])


def test_tokens_in_the_middle_and_hidden_states_at_the_start_are_refused(first: StageModel, middle: StageModel) -> None:
    with pytest.raises(BadActivation, match="hidden states"):
        middle.forward([Memory(middle).session(8).piece(torch.tensor([1]))])
    with pytest.raises(BadActivation, match="token ids"):
        first.forward([Memory(first).session(8).piece(hidden=torch.zeros(1, HIDDEN))])


def test_a_piece_with_both_or_neither_input_is_refused(first: StageModel) -> None:
    session = Memory(first).session(8)
    for piece in (session.piece(), session.piece(torch.tensor([1]), torch.zeros(1, HIDDEN))):
        with pytest.raises(BadActivation, match="either tokens or hidden"):
            first.forward([piece])


def test_more_tokens_than_the_pages_hold_are_refused_and_no_page_is_written(first: StageModel) -> None:
    memory = Memory(first)
    roomy, full = memory.session(32), memory.session(16)
    forward([(full, full.piece(torch.arange(16)))])
    (before,) = forward([(roomy, roomy.piece(torch.arange(20, 40)))])
    roomy.length = 0
    with pytest.raises(CapacityExceeded):
        first.forward([roomy.piece(torch.arange(1, 21)), full.piece(torch.tensor([1]))])
    roomy.length = 19
    (again,) = first.forward([roomy.piece(torch.tensor([39]))])
    torch.testing.assert_close(again[0], before[-1], atol=1e-5, rtol=1e-5)


def test_one_session_twice_in_a_micro_batch_is_refused(first: StageModel) -> None:
    session = Memory(first).session(8)
    with pytest.raises(BadActivation, match="two pieces"):
        first.forward([session.piece(torch.tensor([1])), session.piece(torch.tensor([2]))])


def test_sessions_over_different_spans_in_a_micro_batch_are_refused(first: StageModel) -> None:
    memory = Memory(first)
    whole, part = memory.session(8), memory.session(8, Span(0, 1))
    with pytest.raises(BadActivation, match="micro-batch over 0:2"):
        first.forward([whole.piece(torch.tensor([1])), part.piece(torch.tensor([1]))])


def test_a_session_over_blocks_that_the_stage_lacks_is_refused(first: StageModel) -> None:
    with pytest.raises(BadActivation, match="stage of 0:2"):
        first.forward([Memory(first).session(8, Span(1, 3)).piece(torch.tensor([1]))])


def test_tokens_before_the_first_position_are_refused(first: StageModel) -> None:
    session = Memory(first).session(8)
    session.length = -1
    with pytest.raises(BadActivation, match="position -1"):
        first.forward([session.piece(torch.tensor([1]))])


def test_pages_beyond_memory_are_refused(first: StageModel) -> None:
    for pages in (-1, 1 << 50):
        with pytest.raises(CapacityExceeded):
            first.allocate(pages)


def test_a_page_has_as_many_bytes_as_its_keys_and_values(folder: Path) -> None:
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        stage = load_stage(Checkpoint.open(folder), Span(1, 4), dtype=dtype)
        assert stage.page_bytes == 3 * 2 * 2 * 8 * 16 * width


def test_an_empty_micro_batch_gives_nothing(first: StageModel) -> None:
    assert first.forward([]) == []


def test_blocks_that_the_model_lacks_cannot_be_loaded(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="model of 5 blocks"):
        load_stage(Checkpoint.open(folder), Span(4, 6))


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("phi3", "self_attn.qkv_proj"),
        ("phi3", "mlp.gate_up_proj"),
        ("gemma2", "pre_feedforward_layernorm"),
        ("gemma3", "self_attn.q_norm"),
    ],
)
def test_a_tensor_of_gemma_or_phi_that_is_missing_or_too_small_is_named(
    tmp_path: Path, family: str, name: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "torch":
        monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    file = make_checkpoint(tmp_path, family) / "model.safetensors"
    tensors, full = load_file(file), f"model.layers.1.{name}.weight"
    save_file({**tensors, full: tensors[full][:-1].clone()}, file)
    with pytest.raises(CheckpointError, match=f"{full} has shape"):
        load_stage(Checkpoint.open(tmp_path), Span(0, 2))
    save_file({key: value for key, value in tensors.items() if key != full}, file)
    with pytest.raises(CheckpointError, match=full):
        load_stage(Checkpoint.open(tmp_path), Span(0, 2))
    load_stage(Checkpoint.open(tmp_path), Span(2, 5))


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
