"""What a checkpoint's config.json says, reduced to what the mesh needs (no torch here)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shards.errors import CheckpointError, UnsupportedModel
from shards.shown import shown

_GEMMA3: Final = {"vocab_size": 262_208, "max_position_embeddings": 131_072}
_DEFAULTS: Final[Mapping[str, Mapping[str, int]]] = {
    "gemma2": {"vocab_size": 256_000, "max_position_embeddings": 8192},
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "phi3": {"vocab_size": 32_064, "max_position_embeddings": 4096},
}
"""What transformers' config classes say where a published config leaves it out."""


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
    """Read config.json. Raises `CheckpointError` when it is not a config, `UnsupportedModel` when we lack support."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"config.json is not valid JSON: {error}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise CheckpointError("config.json names no model_type")
    inner = raw.get("text_config")
    shape = {**_DEFAULTS.get(raw["model_type"], {}), **(inner if isinstance(inner, dict) else raw)}
    return ModelSpec(
        model_type=raw["model_type"],
        n_blocks=_positive(shape, "num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=_positive(shape, "hidden_size", "n_embd", "d_model"),
        vocab_size=_positive(shape, "vocab_size"),
        context_length=_positive(
            shape, "max_position_embeddings", "n_positions", "seq_length", "max_sequence_length", default=2048
        ),
        eos_token_ids=_ids(raw.get("eos_token_id", shape.get("eos_token_id"))),
        dtype=_dtype(raw, shape),
        raw=raw,
    )


def _positive(raw: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = raw.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise CheckpointError(f"config.json: {name} must be a positive integer, got {shown(value)}")
        return value
    if default is None:
        raise UnsupportedModel(f"config.json has none of {', '.join(names)}")
    return default


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
