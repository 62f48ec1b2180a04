"""Quantised weights as the native kernels read them, taken from the blocks of a file without changing a number.

The blocks are those of https://github.com/ggml-org/ggml (ggml-common.h) and of checkpoint/packed/numbers.py; what the
kernels read is drawn in quant.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch

from shards.model import mxfp4
from shards.model.packing import PackedLinear, Packer, WeightMemory
from shards.native.library import (
    F8_32,
    F8_128,
    I4_32,
    I4_128,
    I8_32,
    I8_128,
    Q2K,
    Q3K,
    Q4,
    Q4K,
    Q5,
    Q5K,
    Q6K,
    Q8_0,
)

SLICE: Final = 32
"""Inputs whose numbers lie together."""
ROWS_AT_ONCE: Final = 1024
"""Of which numbers are taken apart: in between each takes four bytes."""


def _halves(blocks: torch.Tensor, *places: int) -> list[torch.Tensor]:
    """float16 numbers of each block, from these bytes on, each as [rows, blocks, 1]."""
    return [blocks[:, :, at : at + 2].contiguous().view(torch.float16) for at in places]


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The lower halves of all bytes, then the upper ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _bits(packed: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers of `width` bits in [rows, blocks, n]: the lowest of all bytes, then the next ones of all, and so on."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).view(-1, 1)
    return ((packed.unsqueeze(2) >> shifts) & ((1 << width) - 1)).flatten(2)


def _words(numbers: torch.Tensor, extra: int) -> torch.Tensor:
    """Of [rows, blocks, n] numbers the words of each slice: four with the low nibbles, `extra` with the bits above."""
    slices = numbers.to(torch.int32).view(*numbers.shape[:2], -1, SLICE)

    def packed(values: torch.Tensor, width: int) -> torch.Tensor:
        shifts = torch.arange(0, 32, width, dtype=torch.int32)
        each = values.reshape(*values.shape[:3], -1, 32 // width) << shifts
        return each.sum(dim=-1, dtype=torch.int32)

    words = packed(slices & 15, 4)
    if extra:
        words = torch.cat((words, packed(slices >> 4, extra)), dim=-1)
    return words.flatten(2)


def _q8_0(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [*_halves(blocks, 0), blocks[:, :, 2:]]


def _q4_0(blocks: torch.Tensor) -> list[torch.Tensor]:
    (scale,) = _halves(blocks, 0)
    return [scale, -8 * scale, _words(_nibbles(blocks[:, :, 2:]), 0)]


def _q4_1(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [*_halves(blocks, 0, 2), _words(_nibbles(blocks[:, :, 4:]), 0)]


def _fives(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """Four bytes of highest bits, then the nibbles."""
    bits = blocks[:, :, at : at + 4].unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)
    return _words(_nibbles(blocks[:, :, at + 4 :]) | ((bits & 1).flatten(2) << 4), 1)


def _q5_0(blocks: torch.Tensor) -> list[torch.Tensor]:
    (scale,) = _halves(blocks, 0)
    return [scale, -16 * scale, _fives(blocks, 2)]


def _q5_1(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [*_halves(blocks, 0, 2), _fives(blocks, 4)]


def _super_scales(blocks: torch.Tensor) -> list[torch.Tensor]:
    """Of Q4_K and Q5_K: scale, its eight parts, offset, its eight parts; the parts are six bits in twelve bytes."""
    scale, offset = _halves(blocks, 0, 2)
    first, second, third = blocks[:, :, 4:8], blocks[:, :, 8:12], blocks[:, :, 12:16]
    scales = torch.cat((first & 63, (third & 15) | (first >> 6 << 4)), dim=-1)
    offsets = torch.cat((second & 63, (third >> 4) | (second >> 6 << 4)), dim=-1)
    return [scale, scales, offset, offsets]


def _chunks(packed: torch.Tensor, size: int, part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`part` of every `size` bytes, one after another."""
    rows, count, width = packed.shape
    return part(packed.reshape(rows, count * (width // size), size)).view(rows, count, -1)


def _q4_k(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [*_super_scales(blocks), _words(_chunks(blocks[:, :, 16:], 32, _nibbles), 0)]


def _q5_k(blocks: torch.Tensor) -> list[torch.Tensor]:
    low, high = _chunks(blocks[:, :, 48:], 32, _nibbles), _bits(blocks[:, :, 16:48], 1)
    return [*_super_scales(blocks), _words(low | (high << 4), 1)]


def _q6_k(blocks: torch.Tensor) -> list[torch.Tensor]:
    low = _chunks(blocks[:, :, :128], 64, _nibbles)
    high = _chunks(blocks[:, :, 128:192], 32, lambda part: _bits(part, 2))
    return [*_halves(blocks, 208), blocks[:, :, 192:208], _words(low | (high << 4), 2)]


def _q2_k(blocks: torch.Tensor) -> list[torch.Tensor]:
    scale, offset = _halves(blocks, 80, 82)
    parts = blocks[:, :, :16]
    numbers = _chunks(blocks[:, :, 16:80], 32, lambda part: _bits(part, 2))
    return [scale, parts & 15, offset, parts >> 4, _words(numbers, 0)]


def _q3_k(blocks: torch.Tensor) -> list[torch.Tensor]:
    low = _chunks(blocks[:, :, 32:96], 32, lambda part: _bits(part, 2))
    high = _bits(blocks[:, :, :32], 1)
    parts = _nibbles(blocks[:, :, 96:104]) | (_bits(blocks[:, :, 104:108], 2) << 4)
    return [*_halves(blocks, 108), parts - 32, _words(low | (high << 2), 0)]


def _mxfp4(blocks: torch.Tensor) -> list[torch.Tensor]:
    """Halves of numbers that are whole: their doubles, from -12 on."""
    exponents = blocks[:, :, :1].int() - (mxfp4.BIAS + 1)
    scale = torch.ldexp(torch.ones(exponents.shape), exponents).half()
    doubles = (2 * mxfp4.VALUES + 12).to(torch.uint8)
    return [scale, -12 * scale, _words(doubles[mxfp4.nibbles(blocks[:, :, 1:]).int()], 1)]


def _scaled(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [blocks[:, :, :4].contiguous().view(torch.float32), blocks[:, :, 4:]]


def _shifted(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [blocks[:, :, :4].contiguous().view(torch.float32), blocks[:, :, 4:5], blocks[:, :, 5:]]


def _shifted4(blocks: torch.Tensor) -> list[torch.Tensor]:
    return [*_shifted(blocks)[:2], _words(_nibbles(blocks[:, :, 5:]), 0)]


KERNELS: Final[Mapping[str, tuple[int, int, Callable[[torch.Tensor], list[torch.Tensor]]]]] = {
    "Q8_0": (Q8_0, 32, _q8_0),
    "Q4_0": (Q4, 32, _q4_0),
    "Q4_1": (Q4, 32, _q4_1),
    "Q5_0": (Q5, 32, _q5_0),
    "Q5_1": (Q5, 32, _q5_1),
    "Q2_K": (Q2K, 256, _q2_k),
    "Q3_K": (Q3K, 256, _q3_k),
    "Q4_K": (Q4K, 256, _q4_k),
    "Q5_K": (Q5K, 256, _q5_k),
    "Q6_K": (Q6K, 256, _q6_k),
    mxfp4.NARROW.name: (Q5, 32, _mxfp4),
    "int4/32": (I4_32, 32, _shifted4),
    "int4/128": (I4_128, 128, _shifted4),
    "int8/32": (I8_32, 32, _shifted),
    "int8/128": (I8_128, 128, _shifted),
    "fp8/32": (F8_32, 32, _scaled),
    "fp8/128": (F8_128, 128, _scaled),
}
"""By the type of a file's blocks: what the kernels call it, numbers of a block, and how one is taken apart into what
a group has for each output, in order: [rows, blocks, n] numbers of one, two or four bytes."""


def kernel_of(block_type: str) -> int | None:
    """The kernels' type for a type of blocks; None where they have none."""
    found = KERNELS.get(block_type)
    return None if found is None else found[0]


def bytes_of(block_type: str, count: int) -> int | None:
    """What `count` weights in such blocks take for the kernels; None where these have none."""
    if block_type not in KERNELS:
        return None
    kernel, items, _ = KERNELS[block_type]
    return count // items * GROUP_BYTES[kernel]


class QuantisedPacker(Packer):
    """Packs the linear layers `sizes` (outputs each, all over `inputs`) as `LinearPacker` does, from stored blocks.

    All are of types that have the same kernel, and have their inputs in the same `order` (None: one after another).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        inputs: int,
        *,
        panel: int,
        bias: bool,
        whole_panels: bool,
        memory: WeightMemory,
        order: torch.Tensor | None = None,
    ) -> None:
        super().__init__(sizes, panel, bias=bias, whole_panels=whole_panels)
        self._inputs, self._memory = inputs, memory
        self._order = None if order is None else order.to(torch.int32)
        self._panels: torch.Tensor | None = None
        self._type = 0

    def weight(self, part: int, rows: torch.Tensor, block_type: str) -> None:
        """The rows of one part as they are stored, uint8 [outputs, bytes]."""
        self._type, items, taken_apart = KERNELS[block_type]
        groups = self._inputs // items
        for first in range(0, rows.shape[0], ROWS_AT_ONCE):
            some = rows[first : first + ROWS_AT_ONCE]
            at = 0
            for numbers in taken_apart(some.view(some.shape[0], groups, -1)):
                size = numbers.shape[2] * numbers.itemsize * self._panel
                self._put(part, first, numbers, at)
                at += size

    def _put(self, part: int, first: int, numbers: torch.Tensor, at: int) -> None:
        rows, groups, count = numbers.shape
        size = count * numbers.itemsize * self._panel
        to = self._all(groups)[:, :, at : at + size].view(numbers.dtype).view(-1, groups, count, self._panel)
        for taken, places, lanes in self._places.pieces(part, rows, self._panel, first):
            panels = places.stop - places.start
            to[places, :, :, lanes] = numbers[taken].view(panels, -1, groups, count).movedim(1, -1)

    def _all(self, groups: int) -> torch.Tensor:
        """The panels, [panels, groups, bytes], made when the type is known."""
        if self._panels is None:
            each = GROUP_BYTES[self._type] * self._panel
            self._panels = self._memory.take(self._count * groups * each, torch.uint8).view(self._count, groups, each)
        return self._panels

    def done(self) -> PackedLinear:
        """The layer, once all parts were given."""
        if self._panels is None:
            raise ValueError("this layer was given no weights")
        return PackedLinear(self._panels, self._bias, self._inputs, self._places.outputs, self._type, self._order)


GROUP_BYTES: Final = {
    Q8_0: 2 + 32, Q4: 4 + 16, Q5: 4 + 20,
    Q2K: 36 + 128, Q3K: 18 + 128, Q4K: 20 + 128, Q5K: 20 + 160, Q6K: 18 + 192,
    I4_32: 5 + 16, I4_128: 5 + 64, I8_32: 5 + 32, I8_128: 5 + 128, F8_32: 4 + 32, F8_128: 4 + 128,
}  # fmt: skip
"""Of a group, for each output (`Form::kBytes` of quant.h)."""
