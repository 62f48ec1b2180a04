"""Rotary position embedding: a table of cosines and sines that grows with the positions in use."""

from __future__ import annotations

import math

import torch

from shards.model.rope_config import Llama3Scaling, RopeConfig
from shards.model.yarn import YarnScaling

_FIRST_POSITIONS = 512


class RotaryTable:
    """Cosines and sines for positions 0, 1, …; angles in float32, stored in the compute dtype.

    Source: Su et al., "RoFormer" (2021), in the half-split layout of the Llama checkpoints.
    """

    def __init__(self, config: RopeConfig, head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        turned = config.rotary_dim or head_dim
        self._frequencies = inverse_frequencies(config, turned).to(device)
        self._magnitude = magnitude(config)
        self._dtype = dtype
        self._halves: tuple[torch.Tensor, torch.Tensor] | None = None
        self._cos = self._sin = torch.empty(0, 1, turned, device=device, dtype=dtype)

    def at(self, positions: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin), each [n, 1, rotary_dim], for int64 `positions` [n], all below `longest`.

        Both repeat for the second half of what is turned; `sin` is negative in the first half, as `rotate` needs it.
        """
        if longest > self._cos.shape[0]:
            self._grow(longest)
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)

    def halves(self, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Contiguous (cos, sin) [at least `longest`, rotary_dim / 2], as the native kernels read them."""
        if longest > self._cos.shape[0]:
            self._grow(longest)
        if self._halves is None or self._halves[0].shape[0] != self._cos.shape[0]:
            half = self._cos.shape[-1] // 2
            self._halves = (self._cos[:, 0, :half].contiguous(), self._sin[:, 0, half:].contiguous())
        return self._halves

    def _grow(self, longest: int) -> None:
        size = max(_FIRST_POSITIONS, 1 << (longest - 1).bit_length())
        places = torch.arange(size, device=self._frequencies.device, dtype=torch.float32)
        angles = torch.outer(places, self._frequencies)[:, None]
        cos, sin = ((part * self._magnitude).to(self._dtype) for part in (angles.cos(), angles.sin()))
        self._cos, self._sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` [n, heads, head_dim] turned by the angles of `RotaryTable.at`, as far as these go."""
    turned = cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], cos, sin), x[..., turned:]), dim=-1)
    left, right = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((right, left), dim=-1), sin)


def magnitude(config: RopeConfig) -> float:
    """What cosines and sines are multiplied by."""
    if config.long is not None:
        return config.long.magnitude
    return 1.0 if config.yarn is None else config.yarn.attention_factor


def inverse_frequencies(config: RopeConfig, rotary_dim: int) -> torch.Tensor:
    """Radians per position, float32 [rotary_dim / 2]."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    if config.long is not None:
        return 1.0 / (torch.tensor(config.long.factors) * config.theta**exponents)
    frequencies = 1.0 / config.theta**exponents
    if config.yarn is not None:
        return _ramped(frequencies, config.yarn, config.theta, rotary_dim)
    if config.llama3 is not None:
        return _stretch(frequencies, config.llama3)
    return frequencies / config.linear_factor


def _stretch(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Llama 3.1's scaling, a blend of kept and stretched, linear in the turns made in the old context."""
    turns = scaling.original_context * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _ramped(frequencies: torch.Tensor, scaling: YarnScaling, theta: float, head_dim: int) -> torch.Tensor:
    """YaRN's scaling: kept before the ramp, divided after it."""
    low, high = scaling.ramp(theta, head_dim)
    divided = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)
    return divided * frequencies / scaling.factor + (1 - divided) * frequencies
