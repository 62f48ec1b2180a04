"""YaRN: rotary frequencies stretched for longer contexts, and cosines and sines that are scaled along (no torch here).

Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shards.errors import CheckpointError
from shards.model.config_fields import count, flag, number

_TURNS: Final = (1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Frequencies that turn more than `beta_fast` times in the old context are kept, those that turn less than
    `beta_slow` times are divided by `factor`, with a ramp in between; its ends are whole numbers where `truncates`."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    truncates: bool
    attention_factor: float
    """What cosines and sines are multiplied by."""

    def ramp(self, theta: float, head_dim: int) -> tuple[float, float]:
        """The dimensions (counted in pairs of numbers) where the ramp begins and ends."""

        def dimension(turns: float) -> float:
            ratio = self.original_context / (turns * 2 * math.pi)
            return head_dim * math.log(ratio) / (2 * math.log(theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncates:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high + 0.001 if low == high else high


def parse_yarn(settings: Mapping[str, Any], theta: float, context_length: int) -> YarnScaling:
    """YaRN as rope_parameters describe it; `context_length` is the model's. Raises `CheckpointError`."""
    if theta <= 1:
        raise CheckpointError(f"config.json: YaRN needs a rope_theta above 1, got {theta:g}")
    original = count(settings, "original_max_position_embeddings", context_length)
    factor = number(settings, "factor", context_length / original)
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=_or(settings, "beta_fast", 32.0),
        beta_slow=_or(settings, "beta_slow", 1.0),
        truncates=flag(settings, "truncate", default=True),
        attention_factor=_attention_factor(settings, factor),
    )


def _attention_factor(settings: Mapping[str, Any], factor: float) -> float:
    if settings.get("attention_factor") is not None:
        return number(settings, "attention_factor", None)
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        over, under = number(settings, "mscale", None), number(settings, "mscale_all_dim", None)
        return _temperature(factor, over) / _temperature(factor, under)
    return _temperature(factor, 1.0)


def _temperature(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _or(settings: Mapping[str, Any], name: str, default: float) -> float:
    """Zero means the default, as null does."""
    value = number(settings, name, default) if settings.get(name) else default
    if not _TURNS[0] <= value <= _TURNS[1]:
        raise CheckpointError(f"config.json: {name} must be a number of turns, got {value:g}")
    return value
