"""What the native path must know of a Llama-like model, read from config.json (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.errors import CheckpointError, UnsupportedModel
from shards.model.config_fields import count as _count
from shards.model.config_fields import flag as _flag
from shards.model.config_fields import number as _number
from shards.model.experts_config import MIXTURES, ExpertsConfig, parse_experts
from shards.model.spec import ModelSpec
from shards.model.yarn import YarnScaling, parse_yarn
from shards.shown import shown

LEAN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", *MIXTURES)
MAX_BLOCKS = 4096
_DEFAULT_HEADS = {"gpt_oss": 64}
_DEFAULT_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "mixtral": 8, "qwen3_moe": 4, "gpt_oss": 8}
_DEFAULT_HEAD_DIMS = {"qwen3": 128, "gpt_oss": 64}
_DEFAULT_EPS = {"mixtral": 1e-5, "gpt_oss": 1e-5}
_DEFAULT_WINDOWS = {"mixtral": None, "gpt_oss": 128}
_DEFAULT_WINDOW = 4096
_DEFAULT_THETAS = {"mixtral": 1e6, "gpt_oss": 150_000.0}
_DEFAULT_THETA = 10_000.0
_GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""What is meant where such a config says nothing of it."""


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's rotary scaling: long wavelengths are stretched by `factor`, short ones are kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: frequencies theta^(-2i/d), over `linear_factor`, or as Llama 3.1 or YaRN scales."""

    theta: float
    linear_factor: float = 1.0
    llama3: Llama3Scaling | None = None
    yarn: YarnScaling | None = None


@dataclass(frozen=True, slots=True)
class NativeConfig:
    """The shape and options of one Llama-like model; `windows` has a block's attention window, or None."""

    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    n_blocks: int
    rms_eps: float
    rope: RopeConfig
    windows: tuple[int | None, ...]
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    experts: ExpertsConfig | None = None
    """Of a mixture; blocks without them have a dense MLP."""
    sinks: bool = False
    """Attention scores compete with a learned number of each head besides."""


def parse_native(spec: ModelSpec) -> NativeConfig:
    """Read a config that the native path fully supports.

    Defaults are those of transformers' config classes. Raises `UnsupportedModel` for any other model or
    option (the adapter may serve it) and `CheckpointError` for values that make no sense.
    """
    raw, kind = spec.raw, spec.model_type
    if kind not in LEAN_MODEL_TYPES:
        raise UnsupportedModel(f"the native path has no {kind}")
    if spec.n_blocks > MAX_BLOCKS:
        raise UnsupportedModel(f"the native path serves at most {MAX_BLOCKS} blocks, not {spec.n_blocks}")
    if raw.get("quantization_config") and not is_mxfp4(raw, kind):
        raise UnsupportedModel("the native path has no quantised weights")
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"the native path has no activation {shown(raw['hidden_act'])}")
    n_heads = _count(raw, "num_attention_heads", _DEFAULT_HEADS.get(kind, 32))
    n_kv_heads = _count(raw, "num_key_value_heads", n_heads if _is_null(raw, kind) else _DEFAULT_KV_HEADS[kind])
    default_dim = max(1, spec.hidden_size // n_heads)
    if kind in _DEFAULT_HEAD_DIMS and not (kind == "gpt_oss" and "head_dim" in raw):  # null is not the same there
        default_dim = _DEFAULT_HEAD_DIMS[kind]
    head_dim = default_dim if kind == "qwen2" else _count(raw, "head_dim", default_dim)
    if n_heads % n_kv_heads:
        raise CheckpointError(f"config.json: {n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    if head_dim % 2:
        raise CheckpointError(f"config.json: rotary embedding needs an even head_dim, got {head_dim}")
    if kind == "qwen2" and "head_dim" in raw and raw["head_dim"] not in (None, default_dim):
        raise UnsupportedModel("the native path has no qwen2 with a head_dim of its own")
    may_have_bias = kind in ("llama", "qwen3", "qwen3_moe", "gpt_oss")
    attention_bias = may_have_bias and _flag(raw, "attention_bias", default=kind == "gpt_oss")
    return NativeConfig(
        hidden_size=spec.hidden_size,
        intermediate_size=_count(raw, "intermediate_size", None),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=spec.vocab_size,
        n_blocks=spec.n_blocks,
        rms_eps=_number(raw, "rms_norm_eps", _DEFAULT_EPS.get(kind, 1e-6)),
        rope=_rope(raw, kind, spec.context_length),
        windows=_windows(raw, kind, spec.n_blocks),
        qkv_bias=kind == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=kind == "llama" and _flag(raw, "mlp_bias"),
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        tied=_flag(raw, "tie_word_embeddings"),
        experts=parse_experts(raw, kind, spec.n_blocks) if kind in MIXTURES else None,
        sinks=kind == "gpt_oss",
    )


def is_mxfp4(raw: Mapping[str, Any], kind: str) -> bool:
    """True for gpt-oss's experts in blocks of 4 bits, which are widened when they are read."""
    settings = raw.get("quantization_config")
    return kind == "gpt_oss" and isinstance(settings, dict) and settings.get("quant_method") == "mxfp4"


def _is_null(raw: Mapping[str, Any], kind: str) -> bool:
    """True where as many key-value heads as heads are meant: an explicit null, or Llama's default."""
    return kind not in _DEFAULT_KV_HEADS or "num_key_value_heads" in raw


def _rope(raw: Mapping[str, Any], kind: str, context_length: int) -> RopeConfig:
    # transformers 5 writes rope_parameters; before, there were rope_theta and rope_scaling.
    settings = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if kind == "gpt_oss" and not raw.get("rope_scaling") and raw.get("rope_parameters") is None:
        settings = _GPT_OSS_ROPE
    if not isinstance(settings, dict):
        raise CheckpointError(f"config.json: rope settings must be an object, got {shown(settings)}")
    theta = _number(settings, "rope_theta", _number(raw, "rope_theta", _DEFAULT_THETAS.get(kind, _DEFAULT_THETA)))
    if settings.get("partial_rotary_factor", raw.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise UnsupportedModel("the native path has no partial rotary embedding")
    match settings.get("rope_type", settings.get("type", "default")):
        case "default" | None:
            return RopeConfig(theta)
        case "linear":
            return RopeConfig(theta, linear_factor=_number(settings, "factor", None))
        case "llama3":
            original = settings.get("original_max_position_embeddings", context_length)
            if type(original) is not int or original < 1:
                raise CheckpointError(f"config.json: {shown(original)} is no original_max_position_embeddings")
            scaling = Llama3Scaling(
                factor=_number(settings, "factor", None),
                low_freq_factor=_number(settings, "low_freq_factor", None),
                high_freq_factor=_number(settings, "high_freq_factor", None),
                original_context=original,
            )
            if scaling.low_freq_factor >= scaling.high_freq_factor:
                raise CheckpointError("config.json: low_freq_factor must be below high_freq_factor")
            return RopeConfig(theta, llama3=scaling)
        case "yarn":
            return RopeConfig(theta, yarn=parse_yarn(settings, theta, context_length))
        case other:
            raise UnsupportedModel(f"the native path has no rotary embedding of type {shown(other)}")


def _windows(raw: Mapping[str, Any], kind: str, n_blocks: int) -> tuple[int | None, ...]:
    everywhere = kind in ("mistral", "mixtral", "qwen3_moe")
    always = kind in ("mistral", "mixtral", "gpt_oss")
    if kind == "llama" or (not always and not _flag(raw, "use_sliding_window")):
        return (None,) * n_blocks
    window = raw.get("sliding_window", _DEFAULT_WINDOWS.get(kind, _DEFAULT_WINDOW))
    if window is None and kind != "gpt_oss":
        return (None,) * n_blocks
    if type(window) is not int or window < 1:
        raise CheckpointError(f"config.json: sliding_window must be a positive integer, got {shown(window)}")
    types = raw.get("layer_types")
    if everywhere:
        if types is not None:
            raise UnsupportedModel(f"the native path has no {kind} with layer_types")
        return (window,) * n_blocks
    if types is None and kind == "gpt_oss":
        types = ["full_attention" if block % 2 else "sliding_attention" for block in range(n_blocks)]
    elif types is None:
        from_block = raw.get("max_window_layers", 28)
        if type(from_block) is not int:
            raise CheckpointError(f"config.json: max_window_layers must be an integer, got {shown(from_block)}")
        types = ["sliding_attention" if block >= from_block else "full_attention" for block in range(n_blocks)]
    if not isinstance(types, list) or len(types) < n_blocks:
        raise CheckpointError("config.json: layer_types must have an entry for every block")
    if not all(item in ("full_attention", "sliding_attention") for item in types):
        raise UnsupportedModel("the native path has only full and sliding attention")
    return tuple(window if item == "sliding_attention" else None for item in types[:n_blocks])
