"""Quantising a matrix without data: for every 32 weights of a row the scale and the offset that lose least.

The blocks are ggml's (see `quantised.py`): Q8_0 has a scale, Q4_1 also an offset, both in float16. The weights of a
block become whole numbers q, which stand for `scale * q + offset`.

Rounding to nearest takes the offset from a block's least weight and the scale from its range. Here several narrower
ranges are tried; from each, rounding and the least-squares line through (q, weight) take turns, as in Lloyd's
quantiser (S. Lloyd, "Least squares quantization in PCM", 1982) for levels that are evenly spaced; the line with the
smallest squared error wins. A matrix needs nothing but itself, so it becomes the same whatever span a provider loads.

The same numbers come out on every machine and for any number of threads: there are only elementwise IEEE operations
(no sums whose order is the library's, no fused multiply-add, no BLAS).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch

from shards.errors import CheckpointError

ITEMS: Final = 32
"""Weights of a block."""
BLOCKS_AT_ONCE: Final = 4096
"""What is computed with then stays about in a core's second-level cache, and calls cost little beside it."""
RANGES: Final[Sequence[float]] = (1.0, 0.92, 0.84)
"""Of the block's range, what the levels are first spread over …"""
TURNS: Final = 2
"""… and how often the line is fitted and the weights are rounded anew."""
LEVELS: Final = 15
"""Above zero: the largest of a Q4_1 block's whole numbers."""


def quantise(weight: torch.Tensor, block_type: str) -> torch.Tensor:
    """`weight` [outputs, inputs] of any float dtype as rows of blocks, uint8 [outputs, bytes of a row].

    Raises `CheckpointError` where a weight is not finite, or a block's scale too large for float16.
    """
    outputs, inputs = weight.shape
    blocks = inputs // ITEMS
    rows_at_once = max(1, BLOCKS_AT_ONCE // blocks)
    parts = []
    for first in range(0, outputs, rows_at_once):
        rows = weight[first : first + rows_at_once].float()
        x = rows.reshape(-1, ITEMS).T.contiguous()  # [32, blocks]: what is summed over comes first
        made = _TO_BLOCKS[block_type](x)
        parts.append(made.view(rows.shape[0], -1))
    return torch.cat(parts)


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """Q8_0: 127 steps to either side of zero up to the block's largest weight."""
    scale = _half(x.abs().amax(dim=0) / 127)
    whole = (x * _inverse(scale.float())).round_().clamp_(-127, 127).to(torch.int8)
    return _joined(scale, whole.view(torch.uint8).T)


def _nibbles(x: torch.Tensor) -> torch.Tensor:
    """Q4_1: sixteen levels, evenly spaced from the offset on."""
    scale, offset = _best_line(x)
    whole = _rounded(x, scale.float(), offset.float()).to(torch.uint8).T
    return _joined(scale, offset, whole[:, : ITEMS // 2] | whole[:, ITEMS // 2 :] << 4)


_TO_BLOCKS: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {"Q8_0": _bytes, "Q4_1": _nibbles}


def _best_line(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset of each block, in float16."""
    low, high = x.amin(dim=0), x.amax(dim=0)
    best_scale, best_offset = _half((high - low) / LEVELS), _half(low)
    least = _error(x, best_scale.float(), best_offset.float())
    for part in RANGES:
        scale = (high - low) * (part / LEVELS)
        offset = low + (high - low) * ((1 - part) / 2)
        for _ in range(TURNS):
            scale, offset = _fitted(x, _rounded(x, scale, offset), scale, offset)
        half_scale, half_offset = _half(scale), _half(offset)
        error = _error(x, half_scale.float(), half_offset.float())
        better = error < least
        least = torch.where(better, error, least)
        best_scale = torch.where(better, half_scale, best_scale)
        best_offset = torch.where(better, half_offset, best_offset)
    return best_scale, best_offset


def _rounded(x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The whole numbers nearest to the weights, as floats."""
    return (x - offset).mul_(_inverse(scale)).round_().clamp_(0, LEVELS)


def _fitted(
    x: torch.Tensor, whole: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least-squares line through (whole, x) of each block; where there is none, as before."""
    sum_x, sum_q = _sum(x), _sum(whole)
    sum_qq, sum_qx = _sum(whole * whole), _sum(whole * x)
    spread = sum_qq * ITEMS - sum_q * sum_q  # of whole numbers: exact
    slope = (sum_qx * ITEMS - sum_q * sum_x) / spread
    found = spread > 0
    slope = torch.where(found, slope, scale)
    return slope, torch.where(found, (sum_x - slope * sum_q) / ITEMS, offset)


def _error(x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Summed squares of what is lost."""
    lost = _rounded(x, scale, offset).mul_(scale).add_(offset).sub_(x)
    return _sum(lost.mul_(lost))


def _sum(values: torch.Tensor) -> torch.Tensor:
    """Over the 32 numbers of each block, halves onto halves: in an order that does not depend on the machine."""
    while values.shape[0] > 1:
        half = values.shape[0] // 2
        values = values[:half] + values[half:]
    return values[0]


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale != 0, 1 / scale, 0)


def _half(values: torch.Tensor) -> torch.Tensor:
    half = values.half()
    if not bool(half.isfinite().all()):
        raise CheckpointError("weights that are not finite, or too large for blocks with scales in float16")
    return half


def _joined(*parts: torch.Tensor) -> torch.Tensor:
    """The bytes of each block: numbers [blocks] in float16, or bytes [blocks, n]."""
    as_bytes = [part.view(-1, 1).view(torch.uint8) if part.dtype == torch.float16 else part for part in parts]
    return torch.cat(as_bytes, dim=1)
