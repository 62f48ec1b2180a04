"""What the native path reads from a config: as transformers does, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shards.errors import CheckpointError, ShardError, UnsupportedModel
from shards.model.native_config import LEAN_MODEL_TYPES, parse_native
from shards.model.rope import inverse_frequencies
from shards.model.rope_config import Llama3Scaling, RopeConfig
from shards.model.spec import parse_config
from tests.shards.native_configs import LLAMA, gemma3, native

torch.set_num_threads(1)


def test_defaults_are_those_of_transformers() -> None:
    for kind, config_class in (
        ("llama", transformers.LlamaConfig),
        ("mistral", transformers.MistralConfig),
        ("qwen2", transformers.Qwen2Config),
        ("qwen3", transformers.Qwen3Config),
        ("mixtral", transformers.MixtralConfig),
        ("qwen3_moe", transformers.Qwen3MoeConfig),
        ("gpt_oss", transformers.GptOssConfig),
    ):
        theirs = config_class(num_attention_heads=64, hidden_size=512)
        ours = native(model_type=kind, num_attention_heads=64, hidden_size=512)
        assert ours.n_kv_heads == theirs.num_key_value_heads
        assert ours.head_dim == (getattr(theirs, "head_dim", None) or 8)
        assert ours.rms_eps == theirs.rms_norm_eps
        assert ours.windows[0] == getattr(theirs, "sliding_window", None)
        assert ours.tied == theirs.tie_word_embeddings
        assert ours.o_bias == getattr(theirs, "attention_bias", False)
        assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
        assert (ours.rope.yarn is not None) == (theirs.rope_parameters["rope_type"] == "yarn")
        if ours.experts is not None:
            assert (ours.experts.count, ours.experts.chosen) == (theirs.num_experts, theirs.num_experts_per_tok)
            assert ours.experts.normalised == getattr(theirs, "norm_topk_prob", True)


@pytest.mark.parametrize(
    ("kind", "config_class"),
    [
        ("gemma2", transformers.Gemma2Config),
        ("gemma3_text", transformers.Gemma3TextConfig),
        ("phi3", transformers.Phi3Config),
    ],
)
def test_defaults_of_gemma_and_phi_are_those_of_transformers(kind: str, config_class: Any) -> None:
    theirs = config_class(num_hidden_layers=13, hidden_size=64)
    shape = {"num_hidden_layers": 13, "hidden_size": 64, "intermediate_size": 80}
    spec = parse_config(json.dumps({"model_type": kind, **shape}))
    ours = parse_native(spec)
    assert (spec.vocab_size, spec.context_length) == (theirs.vocab_size, theirs.max_position_embeddings)
    assert (ours.n_heads, ours.n_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert ours.head_dim == getattr(theirs, "head_dim", 64 // theirs.num_attention_heads)
    assert (ours.rms_eps, ours.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert ours.activation == getattr(theirs, "hidden_activation", getattr(theirs, "hidden_act", None))
    assert ours.score_cap == getattr(theirs, "attn_logit_softcapping", None)
    assert ours.logit_cap == getattr(theirs, "final_logit_softcapping", None)
    assert ours.query_scalar == getattr(theirs, "query_pre_attn_scalar", None)
    slides = [each == "sliding_attention" for each in getattr(theirs, "layer_types", ["full_attention"] * 13)]
    assert ours.windows == tuple(theirs.sliding_window if each else None for each in slides)
    ropes = theirs.rope_parameters if kind == "gemma3_text" else {"full_attention": theirs.rope_parameters}
    assert ours.rope == RopeConfig(ropes["full_attention"]["rope_theta"])
    if kind == "gemma3_text":
        assert ours.local_rope == RopeConfig(ropes["sliding_attention"]["rope_theta"])
    else:
        assert ours.local_rope is None


def test_old_and_new_rotary_settings_of_gemma3_mean_the_same() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    new = gemma3(
        rope_parameters={
            "full_attention": {"rope_theta": 5e5, **scaling},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        }
    )
    old = gemma3(rope_theta=5e5, rope_local_base_freq=2e4, rope_scaling=scaling)
    assert new.rope == old.rope == RopeConfig(5e5, linear_factor=8.0)
    assert new.local_rope == old.local_rope == RopeConfig(2e4)
    assert [new.rope_of(block).theta for block in range(7)] == [2e4] * 5 + [5e5, 2e4]


def test_long_rope_is_read_as_transformers_reads_it() -> None:
    long = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [4.0] * 3}
    for changes in (
        {"rope_scaling": long, "partial_rotary_factor": 0.75},
        {"rope_parameters": {**long, "partial_rotary_factor": 0.75, "rope_theta": 1e4}},
        {"rope_scaling": {**long, "attention_factor": 1.25}, "partial_rotary_factor": 0.75},
        {"rope_scaling": {**long, "factor": 3.0}, "partial_rotary_factor": 0.75},
        {"rope_scaling": {**long, "original_max_position_embeddings": 7}, "partial_rotary_factor": 0.75},
    ):
        given = {**LLAMA, "model_type": "phi3", "original_max_position_embeddings": 64, "pad_token_id": None, **changes}
        theirs = transformers.Phi3Config.from_dict(json.loads(json.dumps(given)))
        frequencies, magnitude = ROPE_INIT_FUNCTIONS["longrope"](theirs)
        ours = parse_native(parse_config(json.dumps(given))).rope
        assert ours.rotary_dim == 6 and ours.long is not None
        assert ours.long.original_context == theirs.rope_parameters["original_max_position_embeddings"] == 64
        assert ours.long.magnitude == pytest.approx(magnitude, rel=1e-12)
        torch.testing.assert_close(inverse_frequencies(ours, 6), frequencies, rtol=1e-6, atol=0)


def test_the_text_part_of_gemma3_is_read_from_inside() -> None:
    inner = {key: LLAMA[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    spec = parse_config(json.dumps({"model_type": "gemma3", "text_config": {**inner, "sliding_window": 7}}))
    config = parse_native(spec)
    assert (spec.vocab_size, spec.context_length) == (262_208, 131_072)
    assert config.windows == (7,) * 5 and config.tied and config.query_scalar == 256


def test_old_and_new_rotary_settings_mean_the_same() -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    expected = RopeConfig(5e5, llama3=Llama3Scaling(8.0, 1.0, 4.0, 64))
    new = native(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    old = native(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
    assert new.rope == old.rope == expected
    assert native(rope_scaling={"type": "linear", "factor": 2}).rope == RopeConfig(1e4, linear_factor=2.0)
    assert native(rope_theta=7.0, rope_scaling=None).rope == RopeConfig(7.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gpt2"},
        {"hidden_act": "gelu"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}},
        {"partial_rotary_factor": 0.5},
        {"model_type": "qwen2", "head_dim": 20, "num_key_value_heads": 2},
        {"model_type": "mistral", "num_key_value_heads": 2, "layer_types": ["full_attention"] * 5},
        {"num_hidden_layers": 1 << 30},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"model_type": "gemma2", "use_bidirectional_attention": True, "num_key_value_heads": 2},
        {"model_type": "gemma2", "hidden_activation": "gelu"},
        {"model_type": "gemma2", "hidden_activation": None},
        {"model_type": "gemma2", "num_key_value_heads": 2, "sliding_window": None},
        {"model_type": "gemma2", "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
        {"model_type": "gemma2", "num_key_value_heads": 2, "layer_types": ["linear_attention"] * 5},
        {"model_type": "gemma3_text", "num_key_value_heads": 2, "attn_logit_softcapping": 50.0},
        {"model_type": "gemma3_text", "num_key_value_heads": 2, "rope_parameters": {"rope_theta": 1e4}},
        {"model_type": "gemma3_text", "num_key_value_heads": 2, "rope_scaling": {"type": "linear", "factor": 8.0}},
        {
            "model_type": "gemma3_text",
            "num_key_value_heads": 2,
            "rope_scaling": {"rope_type": "longrope", "factor": 8.0},
        },
        {"model_type": "gemma3", "text_config": {**LLAMA, "model_type": "somebodys_own"}},
        {"model_type": "gemma3", "text_config": {**LLAMA, "quantization_config": {"quant_method": "gptq"}}},
        {"model_type": "phi3", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}},
        {"model_type": "phi3", "partial_rotary_factor": 0.4},
        {"model_type": "phi3", "sliding_window": 24, "layer_types": ["full_attention"] * 5},
        {"model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": 1 << 30, "num_key_value_heads": 2},
        {"model_type": "mixtral", "num_local_experts": 8, "num_experts": 9, "num_key_value_heads": 2},
        {"model_type": "mixtral", "sliding_window": 9, "layer_types": ["full_attention"] * 5, "num_key_value_heads": 2},
        {"model_type": "mixtral", "quantization_config": {"quant_method": "mxfp4"}},
        {"model_type": "gpt_oss", "quantization_config": {"quant_method": "fp8"}},
        {"model_type": "gpt_oss", "layer_types": ["linear_attention"] * 5, "num_key_value_heads": 2},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_what_the_lean_path_does_not_know_is_left_to_the_adapter(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel):
        native(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 4},
        {"num_attention_heads": 0},
        {"head_dim": 7},
        {"rms_norm_eps": -1},
        {"rms_norm_eps": float("inf")},
        {"intermediate_size": None},
        {"attention_bias": "yes"},
        {"rope_parameters": [1]},
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
        {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 0},
        {"model_type": "gemma2", "num_key_value_heads": 2, "final_logit_softcapping": 0},
        {"model_type": "gemma2", "num_key_value_heads": 2, "attn_logit_softcapping": -1.0},
        {"model_type": "gemma2", "num_key_value_heads": 2, "query_pre_attn_scalar": 0},
        {"model_type": "gemma2", "num_key_value_heads": 2, "layer_types": ["full_attention"] * 4},
        {"model_type": "gemma3_text", "num_key_value_heads": 2, "sliding_window_pattern": 0},
        {"model_type": "gemma3_text", "num_key_value_heads": 2, "rope_parameters": {"full_attention": 3}},
        {"model_type": "phi3", "partial_rotary_factor": 1.5},
        {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 3}},
        {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0, 2.0, 0.0, 1.0]}},
        {
            "model_type": "phi3",
            "original_max_position_embeddings": 1,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4},
        },
        {"model_type": "mixtral", "num_key_value_heads": 2, "num_experts_per_tok": 9},
        {"model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 0},
        {"model_type": "qwen3_moe", "num_key_value_heads": 2, "decoder_sparse_step": 0},
        {"model_type": "qwen3_moe", "num_key_value_heads": 2, "mlp_only_layers": "all"},
        {"model_type": "qwen3_moe", "num_key_value_heads": 2, "norm_topk_prob": "yes"},
        {"model_type": "gpt_oss", "num_key_value_heads": 2, "swiglu_limit": 0},
        {"model_type": "gpt_oss", "num_key_value_heads": 2, "sliding_window": None},
        {"rope_scaling": {"rope_type": "yarn", "factor": -2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1e-300}},
        {"rope_theta": 1.0, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        native(**changes)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = (
    *LLAMA, "head_dim", "num_key_value_heads", "rope_parameters", "rope_scaling", "rope_theta", "hidden_act",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "tie_word_embeddings",
    "hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    "sliding_window_pattern", "rope_local_base_freq", "partial_rotary_factor", "original_max_position_embeddings",
    "text_config",
    "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
    "mlp_only_layers", "decoder_sparse_step", "swiglu_alpha", "swiglu_limit", "quantization_config",
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])  # which a busy machine is
@given(st.sampled_from((*LEAN_MODEL_TYPES, "gemma3")), st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_any_config_is_read_or_refused(kind: str, changes: dict[str, Any]) -> None:
    try:
        config = native(**{"model_type": kind, **changes})
    except ShardError:
        return
    assert config.n_heads % config.n_kv_heads == 0 and len(config.windows) == config.n_blocks
    assert config.experts is None or 0 < config.experts.chosen <= config.experts.count
    inverse_frequencies(config.rope, 2)
