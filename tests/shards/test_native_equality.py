"""The native path says what transformers says: logits, greedy tokens, in any cut and any batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shards.checkpoint.folder import Checkpoint
from shards.errors import CapacityExceeded
from shards.model.experts_config import MIXTURES
from shards.model.llama import NativeStage
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.model.stage import LogitsMode
from tests.shards.adapter_models import make_composite
from tests.shards.models import FAMILIES, make_checkpoint, reference
from tests.shards.stages import Memory, Pipeline, forward, random_tokens

TOLERANCE = 1e-4
MIXTURE_TOLERANCE = 3e-4
"""Here transformers in float32 is itself up to 1.4e-4 away from what it says in float64, of logits up to 20."""
TOKENS = 128

torch.set_num_threads(1)

ODD_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "one key-value head": ("llama", {"n_kv_heads": 1}),
    "three key-value heads": ("llama", {"n_kv_heads": 3}),
    "as many key-value heads as heads": ("llama", {"n_kv_heads": 6}),
    "a head_dim of 10": ("mistral", {"head_dim": 10}),
    "a window of one": ("mistral", {"sliding_window": 1}),
    "no window": ("mistral", {"sliding_window": None}),
    "a window in the upper blocks only": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3},
    ),
    "tied query-normed": ("qwen3", {"tie_word_embeddings": True}),
    "biased query-normed": ("qwen3", {"attention_bias": True}),
    "a gate with GELU": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "gemma2 without caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2 with a head of its own": (
        "gemma2",
        {"tie_word_embeddings": False, "attention_bias": True, "final_logit_softcapping": 30.0},
    ),
    "gemma3 with capped logits": ("gemma3", {"final_logit_softcapping": 5.0, "attention_bias": True}),
    "gemma3 with windows everywhere": ("gemma3", {"sliding_window_pattern": 6, "sliding_window": 9}),
    "phi3 that turns half of each head": ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": None}),
    "one expert for each token": ("mixtral", {"num_experts_per_tok": 1, "sliding_window": None}),
    "all experts for each token": ("mixtral", {"num_experts_per_tok": 5}),
    "experts in one tensor": ("mixtral", {"fused": True}),
    "experts in every second block": ("qwen3-moe", {"decoder_sparse_step": 2, "mlp_only_layers": [], "fused": True}),
    "experts as likely as they are": ("qwen3-moe", {"norm_topk_prob": False, "num_experts_per_tok": 2}),
    "no experts after all": ("qwen3-moe", {"mlp_only_layers": [0, 1, 2, 3, 4]}),
    "another gate": ("gpt-oss", {"swiglu_alpha": 0.9, "swiglu_limit": 0.8, "attention_bias": False}),
    "YaRN": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
}


@pytest.fixture(scope="module", params=[*FAMILIES, *ODD_SHAPES])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, overrides = ODD_SHAPES.get(request.param, (request.param, {}))
    return make_checkpoint(tmp_path_factory.mktemp("model"), family, **overrides)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


def test_logits_of_a_prompt_in_chunks_over_three_stages_equal_transformers(folder: Path) -> None:
    prompt = random_tokens(70)
    pipeline = Pipeline(folder)
    assert all(isinstance(stage, NativeStage) for stage in pipeline.stages)
    session = pipeline.session()
    chunks = [prompt[:1], prompt[1:8], prompt[8:50], prompt[50:]]
    found = torch.cat([pipeline.logits(session, chunk) for chunk in chunks])
    with torch.inference_mode():
        expected = reference(folder)(torch.tensor([prompt])).logits[0]
    mixture = Checkpoint.open(folder).spec.model_type in MIXTURES
    torch.testing.assert_close(found, expected, atol=MIXTURE_TOLERANCE if mixture else TOLERANCE, rtol=0)


def test_greedy_tokens_over_three_stages_equal_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = random_tokens(20, seed=2)
    model = reference(folder)
    # For a window of one, transformers keeps the last none of its cache as [-0:], which is all of it.
    cached = getattr(model.config, "sliding_window", None) != 1
    with torch.inference_mode():
        tokens = model.generate(
            torch.tensor([prompt]),
            use_cache=cached,
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    expected = tokens[0, len(prompt) :].tolist()
    pipeline = Pipeline(folder)
    assert pipeline.greedy(pipeline.session(), prompt, TOKENS) == expected
    assert len(set(expected)) > 5, "the random model got stuck, so equality would say little"
    monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    pipeline = Pipeline(folder)
    assert pipeline.greedy(pipeline.session(), prompt, TOKENS) == expected, "with torch"


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_sessions_in_one_micro_batch_do_not_see_each_other(
    llama: Path, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "torch":
        monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    pipeline = Pipeline(llama)
    first, second, third = (random_tokens(n, seed=n) for n in (9, 17, 1))
    alone = [pipeline.logits(pipeline.session(), [*tokens, 5]) for tokens in (first, second, third)]
    sessions = [pipeline.session() for _ in range(3)]
    pipeline.logits(sessions[1], second[:10])
    prefill = pipeline.step([(sessions[0], first), (sessions[1], second[10:]), (sessions[2], third)])
    decode = pipeline.step([(session, [5]) for session in sessions])
    torch.testing.assert_close(torch.cat((prefill[0], decode[0])), alone[0], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(torch.cat((prefill[1], decode[1])), alone[1][10:], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(torch.cat((prefill[2], decode[2])), alone[2], atol=TOLERANCE, rtol=0)


def test_truncating_and_replaying_a_session_gives_the_same_tokens(folder: Path) -> None:
    pipeline = Pipeline(folder)
    session = pipeline.session()
    prompt = random_tokens(30, seed=3)
    before = pipeline.greedy(session, prompt, 20)
    session.truncate(35)
    replayed = pipeline.logits(session, before[5:19])
    assert replayed.argmax(-1).tolist() == before[6:]
    session.truncate(0)
    assert pipeline.greedy(session, prompt, 20) == before


def test_a_checkpoint_that_was_saved_without_its_head_is_read(tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path / "whole", "llama-tied")
    bare = shutil.copytree(whole, tmp_path / "bare")
    transformers.AutoModel.from_pretrained(whole).save_pretrained(bare)
    names = Checkpoint.open(bare).names()
    assert not any(name.startswith("model.") for name in names)
    prompt = random_tokens(20)
    found, expected = Pipeline(bare), Pipeline(whole)
    assert torch.equal(found.logits(found.session(), prompt), expected.logits(expected.session(), prompt))


@pytest.mark.parametrize("nested", [True, False])
def test_the_text_part_of_a_model_that_also_sees_is_served(tmp_path: Path, nested: bool) -> None:
    text = make_checkpoint(tmp_path / "text", "gemma3")
    both = Pipeline(make_composite(tmp_path / "both", text, nested=nested))
    assert all(isinstance(stage, NativeStage) for stage in both.stages)
    prompt, expected = random_tokens(40), Pipeline(text)
    assert torch.equal(both.logits(both.session(), prompt), expected.logits(expected.session(), prompt))


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_sessions_stay_where_long_rope_keeps_its_short_factors(
    tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "torch":
        monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    stage = load_stage(Checkpoint.open(make_checkpoint(tmp_path, "phi3-long")), Span(0, 2))
    assert stage.longest == 200
    session = Memory(stage).session(256)
    forward([(session, session.piece(torch.tensor(random_tokens(200))))])
    with pytest.raises(CapacityExceeded, match="200"):
        stage.forward([session.piece(torch.tensor([1]))])


def test_a_rejected_draft_leaves_no_trace(llama: Path) -> None:
    pipeline = Pipeline(llama)
    prompt = random_tokens(12, seed=4)
    clean = pipeline.session()
    pipeline.logits(clean, prompt)
    drafted = pipeline.session()
    pipeline.logits(drafted, prompt)
    pipeline.logits(drafted, random_tokens(6, seed=5))
    drafted.truncate(len(prompt))
    torch.testing.assert_close(pipeline.logits(drafted, [7]), pipeline.logits(clean, [7]), atol=0, rtol=0)


def test_a_cut_elsewhere_gives_the_same_logits(llama: Path) -> None:
    tokens = random_tokens(25, seed=6)
    whole = Pipeline(llama, [Span(0, 5)])
    cut = Pipeline(llama, [Span(0, 1), Span(1, 4), Span(4, 5)])
    torch.testing.assert_close(
        whole.logits(whole.session(), tokens), cut.logits(cut.session(), tokens), atol=TOLERANCE, rtol=0
    )


def test_a_stage_serves_sessions_over_part_of_its_span(llama: Path) -> None:
    stage = load_stage(Checkpoint.open(llama), Span(0, 5))
    memory = Memory(stage)
    tokens = torch.tensor(random_tokens(11, seed=7))
    (whole,) = stage.forward([memory.session(16).piece(tokens, want=LogitsMode.LAST)])
    (hidden,) = stage.forward([memory.session(16, Span(0, 3)).piece(tokens)])
    assert hidden.shape == (11, stage.spec.hidden_size)
    (parts,) = stage.forward([memory.session(16, Span(3, 5)).piece(hidden=hidden, want=LogitsMode.LAST)])
    torch.testing.assert_close(parts, whole, atol=TOLERANCE, rtol=0)


def test_logits_come_only_for_the_positions_that_are_wanted(llama: Path) -> None:
    stage = load_stage(Checkpoint.open(llama), Span(0, 5))
    tokens = torch.tensor(random_tokens(4, seed=8))
    wants = [LogitsMode.NOTHING, LogitsMode.LAST, LogitsMode.ALL]
    memory = Memory(stage)
    pieces = [memory.session(8).piece(tokens, want=want) for want in wants]
    nothing, last, everything = stage.forward(pieces)
    assert [tuple(part.shape) for part in (nothing, last, everything)] == [(0, 300), (1, 300), (4, 300)]
    assert everything.dtype == torch.float32
    torch.testing.assert_close(last[0], everything[-1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "phi3-long"])
def test_half_precision_stays_near_float32(tmp_path: Path, family: str, dtype: str) -> None:
    tokens = torch.tensor(random_tokens(24, seed=9))
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, family))
    outputs = []
    for chosen in ("float32", dtype):
        stage = load_stage(checkpoint, Span(0, 5), dtype=chosen)
        outputs += stage.forward([Memory(stage).session(24).piece(tokens, want=LogitsMode.ALL)])
    assert outputs[1].dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(outputs[0], outputs[1])
    assert similarity.min() > 0.99


def test_sessions_over_different_parts_of_a_full_prefix_share_its_pages(llama: Path) -> None:
    stage = load_stage(Checkpoint.open(llama), Span(0, 5))
    memory = Memory(stage)
    tokens = torch.tensor(random_tokens(40, seed=11))
    first, second = memory.session(64), memory.session(64)
    (whole,) = forward([(first, first.piece(tokens, want=LogitsMode.ALL))])
    second.pages[:2] = first.pages[:2]
    second.length = 32
    (rest,) = forward([(second, second.piece(tokens[32:], want=LogitsMode.ALL))])
    torch.testing.assert_close(rest, whole[32:], atol=TOLERANCE, rtol=0)
    (after,) = forward([(first, first.piece(torch.tensor([7]), want=LogitsMode.LAST))])
    (same,) = forward([(second, second.piece(torch.tensor([7]), want=LogitsMode.LAST))])
    torch.testing.assert_close(after, same, atol=TOLERANCE, rtol=0)
