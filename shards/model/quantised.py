"""Quantised weights as the native kernels read them, taken from the blocks of a file without changing a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from shards.model.packing import PackedLinear, Places, WeightMemory
from shards.native.library import INT4, INT8

GROUP: Final = 32
"""Inputs that share a scale."""
KERNELS: Final = {"Q8_0": INT8, "Q4_0": INT4, "Q4_1": INT4}
"""What the kernels compute with, by the type of a GGUF file's blocks."""
_HALVES: Final = {INT8: 1, INT4: 2}
"""float16 numbers of a group: its scale, and its offset."""
_STEPS: Final = {INT8: (GROUP, torch.uint8), INT4: (GROUP // 8, torch.int32)}
"""What holds a group's whole numbers: so many words of this type."""


def kernel_of(types: Sequence[str]) -> int | None:
    """The type of matrix for layers of these block types stacked into one; None where no kernel fits them all."""
    kinds = {KERNELS.get(each) for each in types}
    return kinds.pop() if len(kinds) == 1 else None


class QuantisedPacker:
    """Packs the linear layers `sizes` (outputs each, all over `inputs`) as `LinearPacker` does, from stored blocks."""

    def __init__(
        self,
        sizes: Sequence[int],
        inputs: int,
        kind: int,
        *,
        panel: int,
        bias: bool,
        whole_panels: bool,
        memory: WeightMemory,
    ) -> None:
        self._kind, self._inputs = kind, inputs
        self._places = Places.of(sizes, panel, whole_panels=whole_panels)
        self._panel = panel
        panels, groups = -(-self._places.outputs // panel), inputs // GROUP
        self._head = 2 * _HALVES[kind] * panel
        steps, word = _STEPS[kind]
        each = self._head + steps * word.itemsize * panel
        self._panels = memory.take(panels * groups * each, torch.uint8).view(panels, groups, each)
        self._bias = torch.zeros(panels * panel) if bias else None

    def weight(self, part: int, rows: torch.Tensor, block_type: str) -> None:
        """The rows of one part as they are stored, uint8 [outputs, bytes]."""
        panels, groups, _ = self._panels.shape
        steps, word = _STEPS[self._kind]
        heads = self._panels[:, :, : self._head].view(torch.float16).view(panels, groups, -1, self._panel)
        quants = self._panels[:, :, self._head :].view(word).view(panels, groups, steps, self._panel)
        halves, values = _parts(rows.view(rows.shape[0], groups, -1), block_type)
        words = values if self._kind == INT8 else _words(values)
        for taken, places, lanes in self._places.pieces(part, rows.shape[0], self._panel):
            count = places.stop - places.start
            heads[places, :, :, lanes] = halves[taken].view(count, -1, *halves.shape[1:]).movedim(1, -1)
            quants[places, :, :, lanes] = words[taken].view(count, -1, *words.shape[1:]).movedim(1, -1)

    def bias(self, part: int, bias: torch.Tensor) -> None:
        """`bias` [outputs] of one part."""
        if self._bias is None:
            raise ValueError("this layer was to have no bias")
        begin = self._places.starts[part]
        self._bias[begin : begin + bias.shape[0]] = bias

    def done(self) -> PackedLinear:
        """The layer, once all parts were given."""
        return PackedLinear(self._panels, self._bias, self._inputs, self._places.outputs, self._kind)


def _parts(blocks: torch.Tensor, block_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of stored blocks the scales and offsets, float16 [rows, groups, 1 | 2], and the numbers, uint8 [rows, groups, 32]."""
    count = 2 if block_type == "Q4_1" else 1
    halves = blocks[:, :, : 2 * count].contiguous().view(torch.float16)
    numbers = blocks[:, :, 2 * count :]
    if block_type == "Q8_0":
        return halves, numbers
    if block_type == "Q4_0":
        halves = torch.cat((halves, -8 * halves), dim=-1)  # its numbers stand for -8 to 7
    return halves, torch.cat((numbers & 15, numbers >> 4), dim=-1)


def _words(values: torch.Tensor) -> torch.Tensor:
    """Numbers of 4 bits, uint8 [rows, groups, 32], eight to a word: int32 [rows, groups, 4]."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return (values.view(*values.shape[:2], -1, 8).to(torch.int32) << shifts).sum(dim=-1, dtype=torch.int32)
