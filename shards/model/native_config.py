"""What the native path must know of a Llama-like model, read from config.json (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.errors import CheckpointError, UnsupportedModel
from shards.model.fields import check_class
from shards.model.spec import ModelSpec
from shards.shown import shown

LEAN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_CLASSES = {
    kind: (f"{name}ForCausalLM", f"{name}Model")
    for kind, name in zip(LEAN_MODEL_TYPES, ("Llama", "Mistral", "Qwen2", "Qwen3"), strict=True)
}
MAX_BLOCKS = 4096
_DEFAULT_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
_DEFAULT_WINDOW = 4096
_DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's rotary scaling: long wavelengths are stretched by `factor`, short ones are kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: frequencies theta^(-2i/d), over `linear_factor`, or as Llama 3.1 scales."""

    theta: float
    linear_factor: float = 1.0
    llama3: Llama3Scaling | None = None


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
    """Whether the embedding is the head where the checkpoint has no head."""


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
    if raw.get("quantization_config"):
        raise UnsupportedModel("the native path has no quantised weights")
    check_class(raw, _CLASSES[kind])
    if kind == "mistral" and "layer_types" in raw:
        raise UnsupportedModel("the native path has no mistral with layer_types")
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"the native path has no activation {shown(raw['hidden_act'])}")
    n_heads = _count(raw, "num_attention_heads", 32)
    n_kv_heads = _count(raw, "num_key_value_heads", n_heads if _is_null(raw, kind) else _DEFAULT_KV_HEADS[kind])
    default_dim = 128 if kind == "qwen3" else max(1, spec.hidden_size // n_heads)
    head_dim = default_dim if kind == "qwen2" else _count(raw, "head_dim", default_dim)
    if n_heads % n_kv_heads:
        raise CheckpointError(f"config.json: {n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    if head_dim % 2:
        raise CheckpointError(f"config.json: rotary embedding needs an even head_dim, got {head_dim}")
    if kind == "qwen2" and "head_dim" in raw and raw["head_dim"] not in (None, default_dim):
        raise UnsupportedModel("the native path has no qwen2 with a head_dim of its own")
    attention_bias = kind in ("llama", "qwen3") and _flag(raw, "attention_bias")
    return NativeConfig(
        hidden_size=spec.hidden_size,
        intermediate_size=_count(raw, "intermediate_size", None),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=spec.vocab_size,
        n_blocks=spec.n_blocks,
        rms_eps=_number(raw, "rms_norm_eps", 1e-6),
        rope=_rope(raw, spec.context_length),
        windows=_windows(raw, kind, spec.n_blocks),
        qkv_bias=kind == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=kind == "llama" and _flag(raw, "mlp_bias"),
        qk_norm=kind == "qwen3",
        tied=_flag(raw, "tie_word_embeddings"),
    )


def _is_null(raw: Mapping[str, Any], kind: str) -> bool:
    """True where as many key-value heads as heads are meant: an explicit null, or Llama's default."""
    return kind not in _DEFAULT_KV_HEADS or "num_key_value_heads" in raw


def _rope(raw: Mapping[str, Any], context_length: int) -> RopeConfig:
    # transformers 5 writes rope_parameters; before, there were rope_theta and rope_scaling.
    settings = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(settings, dict):
        raise CheckpointError(f"config.json: rope settings must be an object, got {shown(settings)}")
    if any(isinstance(value, dict) for value in settings.values()):
        raise UnsupportedModel("the native path has one rotary embedding for all blocks, not one for each layer type")
    theta = _number(settings, "rope_theta", _number(raw, "rope_theta", _DEFAULT_THETA))
    if settings.get("partial_rotary_factor", raw.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise UnsupportedModel("the native path has no partial rotary embedding")
    match settings.get("rope_type", settings.get("type", "default")):
        case "default" | None:
            return RopeConfig(theta)
        case "dynamic":
            _number(settings, "factor", None)
            return RopeConfig(theta)  # other frequencies only count beyond the context, where no session goes
        case "linear":
            return RopeConfig(theta, linear_factor=_number(settings, "factor", None))
        case "llama3":
            original = settings.get("original_max_position_embeddings", context_length)
            original = raw.get("original_max_position_embeddings", original)  # transformers lets it stand outside
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
        case other:
            raise UnsupportedModel(f"the native path has no rotary embedding of type {shown(other)}")


def _windows(raw: Mapping[str, Any], kind: str, n_blocks: int) -> tuple[int | None, ...]:
    if kind == "llama":
        return (None,) * n_blocks
    if kind != "mistral" and not _flag(raw, "use_sliding_window"):
        listed = raw.get("layer_types")
        if isinstance(listed, list) and any(item != "full_attention" for item in listed):
            raise UnsupportedModel("the native path has no layer_types that use_sliding_window does not allow")
        return (None,) * n_blocks
    window = raw.get("sliding_window", _DEFAULT_WINDOW)
    if window is None:
        return (None,) * n_blocks
    if type(window) is not int or window < 1:
        raise CheckpointError(f"config.json: sliding_window must be a positive integer, got {shown(window)}")
    if kind == "mistral":
        return (window,) * n_blocks
    types = raw.get("layer_types")
    if types is None:
        from_block = raw.get("max_window_layers", 28)
        if type(from_block) is not int:
            raise CheckpointError(f"config.json: max_window_layers must be an integer, got {shown(from_block)}")
        types = ["sliding_attention" if block >= from_block else "full_attention" for block in range(n_blocks)]
    if not isinstance(types, list) or len(types) != n_blocks:
        raise CheckpointError(f"config.json: layer_types must have an entry for each of {n_blocks} blocks")
    if not all(item in ("full_attention", "sliding_attention") for item in types):
        raise UnsupportedModel("the native path has only full and sliding attention")
    return tuple(window if item == "sliding_attention" else None for item in types)


def _count(raw: Mapping[str, Any], name: str, default: int | None) -> int:
    value = raw.get(name)
    if value is None:
        value = default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise CheckpointError(f"config.json: {name} must be a positive integer, got {shown(value)}")
    return value


def _number(raw: Mapping[str, Any], name: str, default: float | None) -> float:
    value = raw.get(name)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json: {name} must be a positive number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise CheckpointError(f"config.json: {name} is larger than any number that we compute with") from None


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} must be true or false, got {shown(value)}")
    return bool(value)
