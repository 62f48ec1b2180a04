"""Sampling parameters as they travel in `OpenSession`, and back (pure)."""

from __future__ import annotations

from typing import Any

from mesh.wire.messages import MAX_TOP_K
from shards.engine.sampling_params import SamplingParams


def to_wire(params: SamplingParams) -> tuple[tuple[Any, ...], tuple[tuple[int, float], ...]]:
    """The `sampling` and `logit_bias` fields. A `top_k` past every vocabulary is cut to what the wire takes."""
    fixed = (
        params.temperature,
        min(params.top_k, MAX_TOP_K),
        params.top_p,
        params.min_p,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
        params.logprobs,
        params.seed,
    )
    return fixed, tuple(sorted(params.logit_bias.items()))


def from_wire(fixed: tuple[Any, ...], logit_bias: tuple[tuple[int, float], ...]) -> SamplingParams:
    """The parameters. Raises `InvalidSampling` when they are out of range."""
    return SamplingParams(
        temperature=fixed[0],
        top_k=fixed[1],
        top_p=fixed[2],
        min_p=fixed[3],
        repetition_penalty=fixed[4],
        presence_penalty=fixed[5],
        frequency_penalty=fixed[6],
        logprobs=fixed[7],
        seed=fixed[8],
        logit_bias=dict(logit_bias),
    )
