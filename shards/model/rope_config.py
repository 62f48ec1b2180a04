"""What config.json says of a model's rotary position embedding (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.errors import CheckpointError, UnsupportedModel
from shards.model.config_fields import count, number, numbers
from shards.model.yarn import YarnScaling, parse_yarn
from shards.shown import shown

_THETA = 10_000.0
_THETAS = {"mixtral": 1e6, "gpt_oss": 150_000.0}
_GEMMA3_THETA = 1_000_000.0
_PHI3_CONTEXT = 4096
_GPT_OSS = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""What is meant where such a config says nothing of it."""
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's rotary scaling: long wavelengths are stretched by `factor`, short ones are kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class LongRope:
    """LongRoPE (Ding et al., 2024) up to the context that the model was first trained for.

    Each frequency is divided by its `factors`, and cosines and sines are multiplied by `magnitude`. Beyond
    `original_context` tokens other factors count, for all positions: cached keys would no longer fit.
    """

    factors: tuple[float, ...]
    magnitude: float
    original_context: int


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: frequencies theta^(-2i/d), over `linear_factor`, or scaled in a model's own way.

    Only the first `rotary_dim` numbers of each head are turned, or all where it is None.
    """

    theta: float
    linear_factor: float = 1.0
    llama3: Llama3Scaling | None = None
    yarn: YarnScaling | None = None
    long: LongRope | None = None
    rotary_dim: int | None = None


def parse_rope(
    raw: Mapping[str, Any], kind: str, *, head_dim: int, context_length: int
) -> tuple[RopeConfig, RopeConfig | None]:
    """The rotary embedding of a model of type `kind`, and that of blocks with a window where they have their own.

    Raises `UnsupportedModel` for a kind of scaling that the native path lacks, `CheckpointError` for wrong values.
    """
    if kind == "gemma3_text":
        return _by_layer_type(raw, context_length)
    # transformers 5 writes rope_parameters; before, there were rope_theta and rope_scaling.
    settings = _object(raw.get("rope_scaling") or raw.get("rope_parameters"))
    if kind == "gpt_oss" and not raw.get("rope_scaling") and raw.get("rope_parameters") is None:
        settings = _GPT_OSS
    if any(isinstance(value, dict) for value in settings.values()):
        raise UnsupportedModel(f"the native path has no {kind} with rotary embeddings by kind of block")
    theta = number(settings, "rope_theta", number(raw, "rope_theta", _THETAS.get(kind, _THETA)))
    if kind == "phi3":
        return _phi3(raw, settings, theta, head_dim, context_length), None
    _refuse_partial(raw, settings)
    return _scaled(raw, settings, theta, context_length), None


def _by_layer_type(raw: Mapping[str, Any], context_length: int) -> tuple[RopeConfig, RopeConfig]:
    """Gemma 3's: blocks with a window have a smaller base, and `rope_scaling` is for the others."""
    given = _object(raw.get("rope_parameters"))
    if not set(given) <= _LAYER_TYPES:
        raise UnsupportedModel("the native path has no gemma3_text with one rotary embedding for all blocks")
    full = {**_object(given.get("full_attention")), **_object(raw.get("rope_scaling"))}
    local = _object(given.get("sliding_attention"))
    _refuse_partial(raw, full, local)
    if "type" in full or "type" in local:  # transformers reads it in some places and not in others
        raise UnsupportedModel("the native path reads rotary scaling of gemma3_text by `rope_type`, not by `type`")
    theta = number(full, "rope_theta", number(raw, "rope_theta", _GEMMA3_THETA))
    local_theta = number(local, "rope_theta", number(raw, "rope_local_base_freq", _THETA))
    return _scaled(raw, full, theta, context_length), _scaled(raw, local, local_theta, context_length)


def _phi3(
    raw: Mapping[str, Any], settings: Mapping[str, Any], theta: float, head_dim: int, context_length: int
) -> RopeConfig:
    part = number(settings, "partial_rotary_factor", number(raw, "partial_rotary_factor", 1.0))
    if part > 1:
        raise CheckpointError(f"config.json: {part} of each head cannot be turned")
    rotary_dim = int(head_dim * part)
    if rotary_dim < 2 or rotary_dim % 2:
        raise UnsupportedModel(f"the native path cannot turn {rotary_dim} numbers of each head")
    dim = None if rotary_dim == head_dim else rotary_dim
    match _type(settings):
        case "default" | None:
            return RopeConfig(theta, rotary_dim=dim)
        case "longrope":
            long = _long(raw, settings, rotary_dim // 2, context_length)
            return RopeConfig(theta, long=long, rotary_dim=dim)
        case other:
            raise UnsupportedModel(f"the native path has no phi3 with a rotary embedding of type {shown(other)}")


def _long(raw: Mapping[str, Any], settings: Mapping[str, Any], frequencies: int, context_length: int) -> LongRope:
    # Beside the settings, not in them, and there it counts: so says transformers.
    original = count(raw, "original_max_position_embeddings", _PHI3_CONTEXT)
    if original < 2:
        raise CheckpointError("config.json: original_max_position_embeddings must be above 1")
    factor = number(settings, "factor", context_length / original)
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRope(
        factors=numbers(settings, "short_factor", frequencies),
        magnitude=number(settings, "attention_factor", magnitude),
        original_context=original,
    )


def _scaled(raw: Mapping[str, Any], settings: Mapping[str, Any], theta: float, context_length: int) -> RopeConfig:
    match _type(settings):
        case "default" | None:
            return RopeConfig(theta)
        case "dynamic":
            number(settings, "factor", None)
            return RopeConfig(theta)  # other frequencies only count beyond the context, where no session goes
        case "linear":
            return RopeConfig(theta, linear_factor=number(settings, "factor", None))
        case "llama3":
            original = settings.get("original_max_position_embeddings", context_length)
            original = raw.get("original_max_position_embeddings", original)  # transformers lets it stand outside
            if type(original) is not int or original < 1:
                raise CheckpointError(f"config.json: {shown(original)} is no original_max_position_embeddings")
            scaling = Llama3Scaling(
                factor=number(settings, "factor", None),
                low_freq_factor=number(settings, "low_freq_factor", None),
                high_freq_factor=number(settings, "high_freq_factor", None),
                original_context=original,
            )
            if scaling.low_freq_factor >= scaling.high_freq_factor:
                raise CheckpointError("config.json: low_freq_factor must be below high_freq_factor")
            return RopeConfig(theta, llama3=scaling)
        case "yarn":
            return RopeConfig(theta, yarn=parse_yarn(settings, theta, context_length))
        case other:
            raise UnsupportedModel(f"the native path has no rotary embedding of type {shown(other)}")


def _type(settings: Mapping[str, Any]) -> Any:
    return settings.get("rope_type", settings.get("type", "default"))


def _refuse_partial(raw: Mapping[str, Any], *settings: Mapping[str, Any]) -> None:
    for each in settings:
        if each.get("partial_rotary_factor", raw.get("partial_rotary_factor")) not in (None, 1, 1.0):
            raise UnsupportedModel("the native path has no partial rotary embedding in this family")


def _object(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"config.json: rope settings must be an object, got {shown(value)}")
    return value
