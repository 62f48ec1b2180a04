"""MXFP4: blocks of 32 numbers of four bits that share an exponent, as gpt-oss's experts are stored.

Source: "OCP Microscaling Formats (MX) Specification" 1.0 (2023).
"""

from __future__ import annotations

from typing import Final

import torch

ITEMS: Final = 32
NBYTES: Final = 16
"""Of a block's numbers, whose exponent is a byte elsewhere."""
_BIAS: Final = 127
_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""By the lower three bits; the fourth is the sign."""


def widen(blocks: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """`blocks` uint8 [rows, blocks, 16] and `exponents` uint8 [rows, blocks] as bfloat16 [rows, blocks * 32].

    A byte has two numbers, the first in its lower half. bfloat16 has all of them, but for those beyond its range.
    """
    values = torch.tensor((*_VALUES, *(-each for each in _VALUES)), dtype=torch.bfloat16)
    nibbles = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(2)
    numbers = values[nibbles.int()]
    return torch.ldexp(numbers, exponents.int().unsqueeze(-1) - _BIAS).to(torch.bfloat16).flatten(1)
