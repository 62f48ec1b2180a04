"""A GGUF file says what transformers says on the weights that it stands for, whatever the type of its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest
import torch

from mesh.provider.model_files import read_model_files
from mesh.provider.planner.capacity import loaded_size
from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_header import TYPES
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.source import resolve
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.llama import NativeStage
from shards.model.loading import load_stage
from shards.model.native_config import parse_native
from shards.model.quantised import KERNELS
from shards.model.span import Span
from shards.model.weights import load_packed_span
from shards.progress import silent
from shards.text.fast import load_tokenizer, tokenizer_from_files
from tests.shards.gguf_files import NARROW, WIDE, make_gguf
from tests.shards.models import reference
from tests.shards.stages import Pipeline, random_tokens

torch.set_num_threads(1)

WHOLE = (Span(0, 5),)
TYPE_NAMES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def mixed(name: str) -> str:
    """As real files have it: what is looked up in finer blocks, and one layer of a stack unlike the others."""
    if "embed_tokens" in name or "lm_head" in name:
        return "Q8_0"
    return "Q5_1" if "1.self_attn.v_proj" in name or "2.mlp.up_proj" in name else "Q4_1"


GEMMA = {"head_dim": 24, "query_pre_attn_scalar": 24}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", NARROW),
    "tied": ("llama-tied", NARROW),
    "biased": ("llama-biased", NARROW),
    "linear": ("llama-linear", NARROW),
    "llama 3": (
        "llama",
        {
            **NARROW,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "mistral": ("mistral", {**NARROW, "sliding_window": None}),
    "qwen2": ("qwen2", NARROW),
    "qwen3": ("qwen3", {**NARROW, "head_dim": 32}),
    "gemma2": ("gemma2", {**NARROW, **GEMMA}),
    "gemma3": ("gemma3", {**NARROW, **GEMMA}),
    "phi3": ("phi3", NARROW),
    "phi3 with long rope": ("phi3-long", NARROW),
    "mixtral": ("mixtral", {**NARROW, "sliding_window": None}),
    "qwen3moe": ("qwen3-moe", {**NARROW, "head_dim": 32, "moe_intermediate_size": 32, "mlp_only_layers": []}),
}


def check(path: Path, widened: Path) -> None:
    """Logits in chunks over three stages, and greedy tokens, are those of transformers on the widened weights."""
    prompt, model = random_tokens(70), reference(widened)
    pipeline = Pipeline(path)
    assert all(isinstance(stage, NativeStage) for stage in pipeline.stages)
    session = pipeline.session()
    found = torch.cat(
        [pipeline.logits(session, chunk) for chunk in (prompt[:1], prompt[1:8], prompt[8:50], prompt[50:])]
    )
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0]
        tokens = model.generate(
            torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert pipeline.greedy(pipeline.session(), prompt, 64) == tokens[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", TYPE_NAMES)
def test_every_type_of_blocks_gives_what_transformers_gives_on_its_numbers(kind: str, tmp_path: Path) -> None:
    check(*make_gguf(tmp_path, "llama", kind, **(WIDE if kind.endswith("_K") else NARROW)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_what_transformers_gives(family: str, tmp_path: Path) -> None:
    name, shape = FAMILIES[family]
    check(*make_gguf(tmp_path, name, mixed, **shape))


def test_experts_in_larger_blocks_give_what_transformers_gives(tmp_path: Path) -> None:
    check(*make_gguf(tmp_path, "mixtral", "Q4_K", **WIDE, sliding_window=None))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_weights_norm": False}, "expert_weights_norm"),
        ({"llama.expert_gating_func": 2}, "expert_gating_func"),
        ({"llama.expert_shared_count": 1}, "expert_shared_count"),
        ({"llama.expert_feed_forward_length": 32}, "another width"),
        ({"llama.expert_group_count": 2}, "expert_group_count"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mixture_that_is_computed_otherwise_is_refused(
    metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path, _ = make_gguf(tmp_path, "mixtral", "Q8_0", **NARROW, n_blocks=1, sliding_window=None, metadata=metadata)
    with pytest.raises(UnsupportedModel, match=message):
        open_checkpoint(path)


def test_experts_without_as_many_in_the_file_are_refused(tmp_path: Path) -> None:
    path, _ = make_gguf(
        tmp_path, "mixtral", "Q8_0", **NARROW, n_blocks=1, sliding_window=None, metadata={"llama.expert_count": 6}
    )
    with pytest.raises(CheckpointError, match="shape"):
        load_stage(open_checkpoint(path), Span(0, 1))


def test_torch_kernels_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    check(*make_gguf(tmp_path, "llama", mixed, **NARROW))


@pytest.mark.parametrize("kind", [kind for kind in KERNELS if kind in TYPE_NAMES])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma2", "phi3", "qwen3-moe"])
def test_kernels_for_blocks_give_the_bits_of_widened_weights(family: str, kind: str, tmp_path: Path) -> None:
    shape = WIDE if kind.endswith("_K") else NARROW
    own: dict[str, Any] = {"head_dim": 32, "query_pre_attn_scalar": 32} if family == "gemma2" else {}
    if family == "qwen3-moe":
        own = {"moe_intermediate_size": shape["intermediate_size"], "mlp_only_layers": [], "head_dim": 32}
    path, widened = make_gguf(tmp_path, family, kind, **shape, **own)
    blocks, plain = Pipeline(path, WHOLE), Pipeline(widened, WHOLE)
    sessions = [(blocks.session(), plain.session()) for _ in range(9)]
    for count in (1, 2, 3, 5, 7, 8, 33):  # rows of a pass: each way in which they are tiled
        tokens = random_tokens(count, seed=count)
        assert torch.equal(blocks.logits(sessions[0][0], tokens), plain.logits(sessions[0][1], tokens))
    for together in (2, 4, 5, 6, 7, 8, 9):
        parts = [[(pair[side], [10 + index]) for index, pair in enumerate(sessions[:together])] for side in (0, 1)]
        for found, expected in zip(blocks.step(parts[0]), plain.step(parts[1]), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("kind", "growth"), [("Q4_1", 1.0), ("Q8_0", 1.0), ("Q4_K", 1.03), ("Q6_K", 1.0), ("Q3_K", 1.35)]
)
def test_weights_stay_about_as_small_as_they_are_stored(kind: str, growth: float, tmp_path: Path) -> None:
    path, _ = make_gguf(tmp_path, "llama", kind, **WIDE)
    checkpoint = GgufCheckpoint.open(path)
    config, span = parse_native(checkpoint.spec), Span(1, 4)
    weights = load_packed_span(checkpoint, config, span, panel=16, dtype=torch.float32, progress=silent)
    kept = sum(layer.panels.nbytes for block in weights.blocks for layer in block.linears())
    assert kept <= growth * checkpoint.nbytes(Span(1, 4))


def test_a_plan_counts_what_blocks_take_where_they_stay_and_where_they_are_widened(tmp_path: Path) -> None:
    path, _ = make_gguf(tmp_path, "llama", "Q4_K", **WIDE)
    files, checkpoint, cpu = read_model_files("m", path), GgufCheckpoint.open(path), torch.device("cpu")
    stored = checkpoint.nbytes(Span(0, 5))
    weights = sum(checkpoint.read(name).numel() for name in checkpoint.names())
    assert stored <= loaded_size(path, files, stored, cpu, torch.float32) <= 1.1 * stored
    assert loaded_size(path, files, stored, cpu, torch.float16) == 2 * weights  # which torch computes in


def test_what_cannot_be_stacked_is_widened_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = make_gguf(tmp_path, "llama", mixed, **NARROW)
    load_stage(open_checkpoint(path), Span(0, 2))
    assert not caplog.records, "queries, keys and values may differ"
    load_stage(open_checkpoint(path), Span(2, 5))
    assert "Q4_1, Q5_1 in one layer" in caplog.text


def test_only_the_bytes_of_the_span_are_read(tmp_path: Path) -> None:
    path, _ = make_gguf(tmp_path, "llama", "Q8_0", **{**WIDE, "n_blocks": 8})
    load_stage(open_checkpoint(path), Span(0, 1))  # whatever is imported on the way
    own = psutil.Process()
    for span in (Span(2, 4), Span(7, 8)):
        before = own.io_counters().read_chars
        checkpoint = open_checkpoint(path)
        opening = own.io_counters().read_chars - before
        load_stage(checkpoint, span)
        loading = own.io_counters().read_chars - before - opening
        assert checkpoint.nbytes(span) <= loading <= checkpoint.nbytes(span) + 4096
        assert opening <= 2 << 20, "the head, in pieces of a MiB"
        assert loading < path.stat().st_size / 2


def test_the_sizes_of_blocks_are_those_of_the_formats_library() -> None:
    for number, kind in TYPES.items():
        known = gguf.GGMLQuantizationType(number)
        assert (known.name, gguf.GGML_QUANT_SIZES[known]) == (kind.name, (kind.items, kind.nbytes))


def test_tokens_and_chat_template_are_those_of_the_folder(tmp_path: Path) -> None:
    path, widened = make_gguf(tmp_path, "llama", "Q8_0", **NARROW)
    ours, theirs = tokenizer_from_files(read_model_files("x", path).contents), load_tokenizer(widened)
    for text in ("the provider serves  blocks", "def add(left, right):\n", "ünïcode 1234 </s> <s>"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    messages = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(messages)
    assert ours.eos_token_ids == theirs.eos_token_ids == (1,)


def test_a_file_is_known_by_its_name_and_its_head(tmp_path: Path) -> None:
    path, widened = make_gguf(tmp_path / "a", "llama", "Q8_0", **NARROW)
    other, _ = make_gguf(tmp_path / "b", "llama", "Q4_1", **NARROW)
    assert resolve(str(path)) == path
    files = read_model_files("m", path)
    assert files.spec.n_blocks == 5 and files.spec.model_type == "llama"
    assert files.digest == read_model_files("m", path).digest
    assert len({each.digest for each in (files, read_model_files("m", other), read_model_files("m", widened))}) == 3


def test_a_file_that_is_changed_while_it_is_in_use_is_noticed(tmp_path: Path) -> None:
    path, _ = make_gguf(tmp_path, "llama", "Q8_0", **NARROW)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        load_stage(checkpoint, Span(0, 2))
