"""MXFP4: blocks of 32 numbers of four bits that share an exponent, as gpt-oss's experts are stored.

Source: "OCP Microscaling Formats (MX) Specification" 1.0 (2023).
"""

from __future__ import annotations

from typing import Final

import torch

from shards.checkpoint.gguf_header import TensorType

ITEMS: Final = 32
NBYTES: Final = 16
"""Of a block's numbers, whose exponent is a byte elsewhere."""
BIAS: Final = 127
_POSITIVE: Final = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
VALUES: Final = torch.cat((_POSITIVE, -_POSITIVE))
"""What four bits stand for."""
NARROW: Final = TensorType("MXFP4 in pairs", ITEMS, 1 + NBYTES)
"""A block as the kernels' packer takes it: its exponent, and its numbers, neighbours in a byte; see `fits`."""
_FEWEST, _MOST = 104, 140


def nibbles(blocks: torch.Tensor) -> torch.Tensor:
    """`blocks` uint8 [..., bytes] as [..., 2 * bytes] numbers of four bits: a byte's lower half comes first."""
    return torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)


def fits(exponents: torch.Tensor) -> bool:
    """Whether half of what these stand for, and twelve times that, is a number in float16."""
    low, high = exponents.aminmax()
    return bool(low >= _FEWEST) and bool(high <= _MOST)


def joined(blocks: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """The rows of `widen`'s arguments as the kernels' packer takes them, uint8 [rows, blocks * 17]."""
    return torch.cat((exponents.unsqueeze(-1), blocks), dim=-1).flatten(1)


def widen(blocks: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """`blocks` uint8 [rows, blocks, 16] and `exponents` uint8 [rows, blocks] as bfloat16 [rows, blocks * 32].

    bfloat16 has all of them, but for those beyond its range.
    """
    numbers = VALUES.to(torch.bfloat16)[nibbles(blocks).int()]
    return torch.ldexp(numbers, exponents.int().unsqueeze(-1) - BIAS).to(torch.bfloat16).flatten(1)
