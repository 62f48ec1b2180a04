"""How a model's makers want it sampled: what generation_config.json says of it (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shards.errors import TokenizerError
from shards.shown import shown

_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (-1, 1 << 31),
    "top_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, 100.0),
}


def sampling_defaults(config: Mapping[str, Any]) -> dict[str, float]:
    """Those of temperature, top_k, top_p and repetition_penalty that the file names, which is what vLLM takes of it.

    Raises `TokenizerError` for a value that is none.
    """
    defaults: dict[str, float] = {}
    for name, (low, high) in _RANGES.items():
        value = config.get(name)
        if value is None:
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        number = whole or (isinstance(value, float) and math.isfinite(value) and name != "top_k")
        if not number or not low <= value <= high:
            raise TokenizerError(f"generation_config.json: {name} is {shown(value)}, which is no such setting")
        defaults[name] = value
    return defaults
