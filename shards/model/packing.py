"""Weights as the native kernels read them: panels of outputs, each with its inputs one after another."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shards.native.library import BFLOAT16, FLOAT32, Matrix

_BF16_INPUTS = 32


_CHUNK = 64 << 20
_LINE = 64


class WeightMemory:
    """Zeroed memory for weights in large chunks, on huge pages where the system has them.

    A single row reads all weights once and is bound by memory: what the processor need not translate counts.
    """

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """`count` zeros, at a cache line's start."""
        size = -(-count * dtype.itemsize // _LINE) * _LINE
        if self._used + size > self._chunk.nbytes:
            self._chunk = _huge(max(size, _CHUNK))
            self._used = 0
        begin = self._used
        self._used += size
        return self._chunk[begin : begin + count * dtype.itemsize].view(dtype)


def _huge(size: int) -> torch.Tensor:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no huge pages
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a system without them
        pass
    return torch.frombuffer(memory, dtype=torch.uint8)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer in panels (layouts: linear.h and quant.h). `bias` is float32, `type` one of `native.library`'s."""

    panels: torch.Tensor
    bias: torch.Tensor | None
    inputs: int
    outputs: int
    type: int
    order: torch.Tensor | None = None
    """int32 [inputs]: which input each column is multiplied with, where they do not follow one another."""

    def matrix(self) -> Matrix:
        """The C structure; valid as long as this object."""
        return Matrix(
            panels=self.panels.data_ptr(),
            bias=None if self.bias is None else self.bias.data_ptr(),
            inputs=self.inputs,
            outputs=self.outputs,
            type=self.type,
            order=None if self.order is None else self.order.data_ptr(),
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Where the outputs of each part lie: one after another, or with `whole_panels` each part from a panel on."""

    starts: Sequence[int]
    outputs: int

    @classmethod
    def of(cls, sizes: Sequence[int], panel: int, *, whole_panels: bool) -> Places:
        spaces = [-(-size // panel) * panel if whole_panels else size for size in sizes]
        return cls([sum(spaces[:index]) for index in range(len(spaces))], sum(spaces))

    def pieces(self, part: int, rows: int, width: int, first: int = 0) -> Iterator[tuple[slice, slice, slice]]:
        """A part's rows from `first` on by where they go in panels of `width`: (rows, panels, lanes).

        As many whole ones as there are go at once, what is left of one by itself.
        """
        at = 0
        while at < rows:
            index, lane = divmod(self.starts[part] + first + at, width)
            count = (rows - at) // width if lane == 0 else 0
            taken = count * width or min(width - lane, rows - at)
            lanes = slice(lane, lane + (width if count else taken))
            yield slice(at, at + taken), slice(index, index + max(count, 1)), lanes
            at += taken


class Packer:
    """What packers share: where the parts' outputs go, and their biases."""

    def __init__(self, sizes: Sequence[int], panel: int, *, bias: bool, whole_panels: bool) -> None:
        self._panel = panel
        self._places = Places.of(sizes, panel, whole_panels=whole_panels)
        self._count = -(-self._places.outputs // panel)
        """Of panels."""
        self._bias = torch.zeros(self._count * panel) if bias else None

    def bias(self, part: int, bias: torch.Tensor) -> None:
        """`bias` [outputs] of one part."""
        if self._bias is None:
            raise ValueError("this layer was to have no bias")
        begin = self._places.starts[part]
        self._bias[begin : begin + bias.shape[0]] = bias


class LinearPacker(Packer):
    """Packs the linear layers `sizes` (outputs each, all over `inputs`), given part by part in any order.

    With `whole_panels` every part begins a panel, padded with zeros; else they follow one another.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        inputs: int,
        *,
        panel: int,
        dtype: torch.dtype,
        bias: bool,
        whole_panels: bool,
        memory: WeightMemory,
    ) -> None:
        super().__init__(sizes, panel, bias=bias, whole_panels=whole_panels)
        self._inputs = inputs
        pair = 2 if dtype == torch.bfloat16 else 1
        depth = -(-inputs // _BF16_INPUTS) * _BF16_INPUTS if pair == 2 else inputs
        self._panels = memory.take(self._count * depth * panel, dtype).view(self._count, depth // pair, panel, pair)

    def weight(self, part: int, weight: torch.Tensor) -> None:
        """`weight` [outputs, inputs] of one part."""
        pair = self._panels.shape[3]
        rows = weight.to(self._panels.dtype)
        if rows.shape[1] % pair:
            rows = F.pad(rows, (0, 1))
        steps = rows.shape[1] // pair
        for taken, panels, lanes in self._places.pieces(part, rows.shape[0], self._panel):
            count = panels.stop - panels.start
            self._panels[panels, :steps, lanes] = rows[taken].view(count, -1, steps, pair).permute(0, 2, 1, 3)

    def done(self) -> PackedLinear:
        """The layer, once all parts were given."""
        kind = BFLOAT16 if self._panels.dtype == torch.bfloat16 else FLOAT32
        return PackedLinear(self._panels, self._bias, self._inputs, self._places.outputs, kind)
