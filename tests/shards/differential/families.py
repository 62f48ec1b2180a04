"""Tiny random checkpoints of every family that is compared with transformers, one line each.

A field that the family's config class has takes its value from `SMALL`; the line gives what differs.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from tests.shards.adapter_models import scatter
from tests.shards.quiet import quiet

N_BLOCKS: Final = 3
VOCAB: Final = 96
WINDOW: Final = 8
CONTEXT: Final = 64
SMALL: Final[dict[str, Any]] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), N_BLOCKS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "shared_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "vocab_size": VOCAB,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "num_experts_per_tok": 2,
    "rotary_dim": 4,
    "sliding_window": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_TYPES: Final = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_LATENT: Final = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "num_key_value_heads": 4, "first_k_dense_replace": 1,
}  # fmt: skip
_LLAMA3: Final = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_LONGROPE: Final = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.5, 3.0, 4.0], "original_max_position_embeddings": 32,
}  # fmt: skip

FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "llama": {},
    "llama/tied": {"tie_word_embeddings": True},
    "llama/llama3": {"rope_parameters": _LLAMA3},
    "llama/biased": {"attention_bias": True, "mlp_bias": True},
    "llama/yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}},
    "llama/dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}},
    "mistral": {},
    "qwen2": {},
    "qwen2/window": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {},
    "qwen3/window": {"use_sliding_window": True, **_TYPES},
    "gemma": {},
    "gemma2": _TYPES,
    "gemma3_text": _TYPES,
    "mixtral": {},
    "phi": {},
    "phi3": {"original_max_position_embeddings": CONTEXT},
    "phi3/longrope": {"original_max_position_embeddings": 32, "rope_parameters": _LONGROPE},
    "phimoe": {},
    "gpt2": {},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": WINDOW},
    "gpt_neox": {},
    "gptj": {},
    "gpt_bigcode": {},
    "codegen": {},
    "bloom": {},
    "falcon": {"alibi": False, "multi_query": True},
    "falcon/new": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon/alibi": {"alibi": True, "multi_query": False, "bias": True},
    "opt": {},
    "mpt": {},
    "stablelm": {},
    "starcoder2": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": _TYPES,
    "olmoe": {},
    "cohere": {},
    "cohere2": _TYPES,
    "granite": {},
    "granitemoe": {},
    "granitemoeshared": {},
    "granitemoehybrid": {
        "layer_types": ["full_attention"] * N_BLOCKS, "position_embedding_type": "rope", "mamba_n_heads": 8,
    },
    "nemotron": {},
    "persimmon": {},
    "glm": {},
    "glm4": {},
    "helium": {},
    "smollm3": {"no_rope_layer_interval": 2},
    "ministral": _TYPES,
    "ministral3": {},
    "seed_oss": {},
    "arcee": {},
    "exaone4": _TYPES,
    "ernie4_5": {},
    "hunyuan_v1_dense": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "deepseek_v2": _LATENT,
    "deepseek_v3": {**_LATENT, "n_group": 2, "topk_group": 1},
    "apertus": {},
    "gpt_oss": _TYPES,
    "cwm": _TYPES,
    "modernbert-decoder": {**_TYPES, "local_attention": 2 * WINDOW},
    "biogpt": {},
    "xglm": {},
}  # fmt: skip
"""By model_type, after a slash with options of its own."""

_TEXT: Final[dict[str, Any]] = {
    name: SMALL[name]
    for name in (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
        "head_dim", "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id",
    )
} | {"pad_token_id": 2}  # fmt: skip
_EYE: Final = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
COMPOSITES: Final[dict[str, dict[str, Any]]] = {
    "llava": {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_EYE},
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", **_TEXT, "sliding_window": WINDOW},
        "vision_config": {"model_type": "pixtral", **_EYE},
    },
    "gemma3": {
        "text_config": {**_TEXT, **_TYPES, "sliding_window": WINDOW},
        "vision_config": {"model_type": "siglip_vision_model", **_EYE},
        "mm_tokens_per_image": 1,
    },
    "smolvlm": {"text_config": {"model_type": "llama", **_TEXT}, "vision_config": _EYE, "pad_token_id": 2},
    "idefics3": {"text_config": {"model_type": "llama", **_TEXT}, "vision_config": _EYE, "pad_token_id": 2},
}
"""Models that also see, by model_type."""


def config_of(family: str) -> transformers.PretrainedConfig:
    """The family's tiny config."""
    kind = family.partition("/")[0]
    config_class = transformers.CONFIG_MAPPING[kind]
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if field.name in SMALL:
            settings[field.name] = SMALL[field.name]
        elif field.name.endswith("_token_id") and isinstance(field.default, int) and field.default >= VOCAB:
            settings[field.name] = 2
    with quiet():
        return config_class(**{**settings, **FAMILIES[family]})


def make(folder: Path, family: str) -> Path:
    """Write the family's checkpoint in float32 (the same every time), with every field in its config.json."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config_of(family))
        scatter(model)
        model.save_pretrained(folder)
    return folder


def read(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config
