"""What a checkpoint's config.json says, reduced to what the mesh needs (no torch here)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shards.errors import CheckpointError, UnsupportedModel
from shards.model.class_defaults import GUESSED, SHAPES, TEXT_PARTS, Dimension, Shape
from shards.model.fields import refuse_unserved
from shards.shown import shown

_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's shape: the facts that every part of the mesh agrees on before a byte of weights moves."""

    model_type: str
    n_blocks: int
    hidden_size: int
    vocab_size: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    """The checkpoint's own dtype, as torch names it: `float32`, `bfloat16` or `float16`."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def parse_config(text: str | bytes) -> ModelSpec:
    """Read config.json.

    What it does not say is as in transformers' class for its model_type. Raises `CheckpointError` when it is not a
    config, `UnsupportedModel` when we lack support.
    """
    try:
        raw = _with_floats(json.loads(text))
    except ValueError as error:
        raise CheckpointError(f"config.json is not valid JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError("config.json is nested too deeply") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise CheckpointError("config.json names no model_type")
    refuse_unserved(raw)
    source, shape = _text_part(raw)
    return ModelSpec(
        model_type=raw["model_type"],
        n_blocks=_positive(source, shape.blocks),
        hidden_size=_positive(source, shape.hidden),
        vocab_size=_positive(source, shape.vocab),
        context_length=_positive(source, shape.context),
        eos_token_ids=_ids(raw.get("eos_token_id", source.get("eos_token_id"))),
        dtype=_dtype(raw, source),
        raw=raw,
    )


def _with_floats(value: Any) -> Any:
    """transformers writes numbers that JSON lacks as `{"__float__": "Infinity"}`."""
    if isinstance(value, list):
        return [_with_floats(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and isinstance(value["__float__"], str):
        return _FLOATS.get(value["__float__"], value)
    return {name: _with_floats(each) for name, each in value.items()}


def _text_part(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Shape]:
    """What describes the language model, all of the config or its `text_config`, and how its class reads that."""
    kind, inner = raw["model_type"], raw.get("text_config")
    if kind in SHAPES and isinstance(inner, dict):
        raise CheckpointError(f"config.json has a text_config, which {kind} models do not have: remove it")
    if not isinstance(inner, dict):
        return raw, SHAPES.get(kind, GUESSED)
    named = inner.get("model_type", TEXT_PARTS.get(kind))
    return inner, SHAPES.get(named, GUESSED) if isinstance(named, str) else GUESSED


def _positive(raw: Mapping[str, Any], dimension: Dimension) -> int:
    for name in dimension.names:
        value = raw.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise CheckpointError(f"config.json: {name} must be a positive integer, got {shown(value)}")
        return value
    if dimension.default is None:
        raise UnsupportedModel(f"config.json has none of {', '.join(dimension.names)}")
    return dimension.default


def _ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    values: list[Any] = value if isinstance(value, list) else [value]
    if not all(type(item) is int and -1 <= item < 1 << 31 for item in values):
        raise CheckpointError(f"config.json: eos_token_id must be token ids, got {shown(value)}")
    return tuple(item for item in values if item >= 0)  # -1 is none


def _dtype(raw: Mapping[str, Any], shape: Mapping[str, Any]) -> str:
    for source in (raw, shape):
        for name in ("dtype", "torch_dtype"):
            value = source.get(name)
            if isinstance(value, str):
                return value.removeprefix("torch.")
    return "float32"
