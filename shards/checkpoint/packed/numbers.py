"""A layer's quantised numbers, whatever form they were stored in: widened exactly, or as blocks that a kernel reads.

A weight is (code - zero) * scale in float32. Where scales have sixteen bits that is exact, and rounding it to their
dtype gives what libraries that compute in that dtype say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from shards.checkpoint.gguf_header import TensorType

ROWS_AT_ONCE: Final = 1024
"""Of which weights are taken apart: in between each takes four bytes and more."""
SIZES: Final = (128, 32)
"""Inputs of a block: kernels read slices of 32, and scales mostly stand for 128."""
_BITS: Final = {"int4": 4, "int8": 8, "fp8": 8}

BLOCKS: Final[Mapping[str, TensorType]] = {
    f"{code}/{items}": TensorType(f"{code}/{items}", items, (4 if code == "fp8" else 5) + items * bits // 8)
    for code, bits in _BITS.items()
    for items in SIZES
}
"""A float32 scale, for integers a signed byte of zero point, then the codes: bytes, or nibbles, lower halves first."""


def block_of(code: str, columns: int, inputs: int) -> TensorType | None:
    """The blocks that hold rows of `inputs` codes of which `columns` share a scale; None where none do."""
    for items in SIZES:
        if inputs % items == 0 and (columns % items == 0 or columns >= inputs):
            return BLOCKS[f"{code}/{items}"]
    return None


@dataclass(frozen=True, slots=True)
class Numbers:
    """A layer [outputs, inputs] of codes: uint8 of 0 to 15 for `int4`, int8 for `int8`, the float's byte for `fp8`.

    `scales` float32 and `zeros` int16 are [outputs, groups]. `columns` inputs in a row make a group, unless `order`
    [inputs] says of each its group.
    """

    code: str
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    columns: int
    order: torch.Tensor | None = None

    def widened(self) -> torch.Tensor:
        """float32 [outputs, inputs]."""
        outputs, inputs = self.codes.shape
        wide = torch.empty(outputs, inputs)
        count = self.scales.shape[1]
        if self.order is None and inputs == count * self.columns:
            groups, shape = torch.arange(count), (-1, count, self.columns)
        else:
            groups = torch.arange(inputs) // self.columns if self.order is None else self.order
            shape = (-1, inputs, 1)
        for first in range(0, outputs, ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            codes = self.codes[some].view(torch.float8_e4m3fn) if self.code == "fp8" else self.codes[some]
            rows = codes.float().view(shape)
            if self.zeros is not None:
                rows -= self.zeros[some][:, groups].unsqueeze(-1)
            torch.mul(rows, self.scales[some][:, groups].unsqueeze(-1), out=wide[some].view(shape))
        return wide

    def blocks(self, kind: TensorType, order: torch.Tensor | None = None) -> torch.Tensor:
        """uint8 [outputs, bytes of a row] of such blocks; columns in an `order` in which those of a group follow."""
        outputs, inputs = self.codes.shape
        count = inputs // kind.items
        groups = torch.arange(count) * kind.items // self.columns
        rows = torch.empty(outputs, count, kind.nbytes, dtype=torch.uint8)
        rows[:, :, :4] = self.scales[:, groups].unsqueeze(-1).view(torch.uint8)
        codes = self.codes.view(torch.uint8)
        codes = (codes if order is None else codes[:, order]).view(outputs, count, kind.items)
        if self.code == "fp8":
            rows[:, :, 4:] = codes
            return rows.flatten(1)
        rows[:, :, 4] = 0 if self.zeros is None else self.zeros[:, groups].to(torch.int8).view(torch.uint8)
        if self.code == "int4":
            half = kind.items // 2
            codes = codes[:, :, :half] | (codes[:, :, half:] << 4)
        rows[:, :, 5:] = codes
        return rows.flatten(1)
