"""How a session's next token is chosen: the parameters and their bounds (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from shards.errors import InvalidSampling

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
SEED_BITS = 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One session's sampling parameters; `temperature` 0 means greedy.

    `seed` is an unsigned 64-bit integer: together with a token's position it fixes the random number that
    chooses the token, so a replay of the session gives the same text. `logprobs` is how many of the most
    likely tokens to report beside the chosen one (None: no log-probabilities at all). Penalties follow
    OpenAI's (presence, frequency: over generated tokens) and CTRL's (repetition: over prompt and generated
    tokens) definitions. Raises `InvalidSampling` when a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, 100.0, low_open=True)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.top_k < 0:
            raise InvalidSampling(f"top_k must be 0 (off) or positive, got {self.top_k}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP_LOGPROBS:
            raise InvalidSampling(f"logprobs must be between 0 and {MAX_TOP_LOGPROBS}, got {self.logprobs}")
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidSampling(f"logit_bias may name at most {MAX_LOGIT_BIAS} tokens")
        for token, bias in self.logit_bias.items():
            if token < 0:
                raise InvalidSampling(f"logit_bias names a negative token id: {token}")
            _within(f"logit_bias[{token}]", bias, -100.0, 100.0)
        if not 0 <= self.seed < 1 << SEED_BITS:
            raise InvalidSampling(f"seed must be an unsigned {SEED_BITS}-bit integer, got {self.seed}")

    @property
    def needs_prompt(self) -> bool:
        """True when the last stage must know the prompt's token ids."""
        return self.repetition_penalty != 1.0


def _within(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    inside = (low < value if low_open else low <= value) and value <= high
    if not math.isfinite(value) or not inside:
        bracket = "(" if low_open else "["
        raise InvalidSampling(f"{name} must be in {bracket}{low:g}, {high:g}], got {value!r}")
