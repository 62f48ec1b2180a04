"""How a stage's tensors are read: one at a time, checked, for torch or into the native kernels' panels."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from shards.checkpoint.opening import Tensors
from shards.errors import CheckpointError
from shards.model.linear import Linear
from shards.model.packing import LinearPacker, PackedLinear, WeightMemory
from shards.model.quantised import QuantisedPacker, kernel_of
from shards.model.span import Span
from shards.progress import Progress

logger = logging.getLogger(__name__)

L_co = TypeVar("L_co", covariant=True)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class LayerReader(Protocol[L_co]):
    """What a block is read with."""

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of this shape that belongs to no linear layer."""

    def norm(self, name: str, width: int, *, centred: bool) -> torch.Tensor:
        """A norm's weight [width]; where `centred`, one is added in float32, and it stays in that."""

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        """The same linear layers, in runs of those that can be stacked."""

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> L_co:
        """The linear layers `parts` (name, outputs), all over `width` inputs, stacked into one.

        Neighbours of one name lie in one tensor, one after another.
        """


def _stacked(parts: Sequence[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    """The layers of a stack by the tensor that holds them: its name, and the outputs of each."""
    runs = itertools.groupby(parts, key=lambda part: part[0])
    return [(name, [size for _, size in run]) for name, run in runs]


def variants(name: str) -> tuple[str, ...]:
    """The names that a tensor may have in a checkpoint (see `_Reader.stored`)."""
    short = name.removeprefix("model.")
    return name, short, f"model.language_model.{short}", f"language_model.{name}"


class _Reader:
    """Reads checked tensors and counts the bytes for `progress`."""

    def __init__(self, checkpoint: Tensors, span: Span, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._what = f"loading blocks {span}"
        self._done, self._total = 0, checkpoint.nbytes(span)
        self._widened: dict[str, int] = {}
        """Bytes that quantised layers take by the type of their blocks, where they do not stay so."""

    def stored(self, name: str) -> str:
        """The checkpoint's name of a tensor.

        One that was saved without its head has no `model.` before the others; one of a model that also sees says
        `language_model.` before those that are for text, after that or before it.
        """
        return next((each for each in variants(name) if each in self._checkpoint), name)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._checkpoint.shape(self.stored(name))
        if found != shape:
            raise CheckpointError(f"tensor {name} has shape {list(found)}, config.json calls for {list(shape)}")
        if self.dtype(name) not in _FLOATS:
            raise CheckpointError(f"tensor {name} has dtype {self.dtype(name)}, floats are needed")

    def dtype(self, name: str) -> torch.dtype:
        return self._checkpoint.dtype(self.stored(name))

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.check(name, shape)
        stored = self.stored(name)
        return self._count(self._checkpoint.read(stored), self._checkpoint.stored_bytes(stored))

    def check_parts(self, parts: Sequence[tuple[str, int]], width: int) -> None:
        """`check` the weights of stacked layers over `width` inputs."""
        for name, sizes in _stacked(parts):
            self.check(f"{name}.weight", (sum(sizes), width))

    def tell_widened(self, why: str) -> None:
        """Log which quantised layers had to be widened, and what they take then."""
        if self._widened:
            taken = sum(self._widened.values())
            logger.warning(f"{why}: widened, which takes %.1f MiB", ", ".join(sorted(self._widened)), taken / (1 << 20))

    def _type(self, name: str) -> str:
        """How a tensor is stored: the name of its blocks, or nothing for plain floats."""
        blocks = self._checkpoint.blocks(self.stored(name))
        return "" if blocks is None else blocks.name

    def _note(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Remember what a layer takes as it is kept."""
        kind = self._type(name)
        if kind:
            self._widened[kind] = self._widened.get(kind, 0) + tensor.nbytes
        return tensor

    def _count(self, tensor: torch.Tensor, nbytes: int | None = None) -> torch.Tensor:
        self._done += tensor.nbytes if nbytes is None else nbytes
        self._progress(self._done, self._total, self._what)
        return tensor


class TorchReader(_Reader):
    """Tensors on the device in the compute dtype."""

    def __init__(
        self, checkpoint: Tensors, span: Span, device: torch.device, dtype: torch.dtype, progress: Progress
    ) -> None:
        super().__init__(checkpoint, span, progress)
        self._device = device
        self._dtype = dtype

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self._note(name, self.read(name, shape).to(device=self._device, dtype=self._dtype))

    def norm(self, name: str, width: int, *, centred: bool) -> torch.Tensor:
        if not centred:
            return self.matrix(f"{name}.weight", (width,))
        return self.read(f"{name}.weight", (width,)).to(self._device, torch.float32) + 1.0

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        return [list(parts)]

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> Linear:
        outputs = sum(size for _, size in parts)
        self.check_parts(parts, width)  # before a large allocation
        weight = torch.empty(outputs, width, device=self._device, dtype=self._dtype)
        offset = torch.empty(outputs, device=self._device, dtype=self._dtype) if bias else None
        row = 0
        for name, sizes in _stacked(parts):
            size = sum(sizes)
            weight[row : row + size] = self.read(f"{name}.weight", (size, width))
            self._note(f"{name}.weight", weight[row : row + size])
            if offset is not None:
                offset[row : row + size] = self.read(f"{name}.bias", (size,))
            row += size
        return Linear(weight, offset)


class PackedReader(_Reader):
    """Linear layers in panels, everything else in float32."""

    def __init__(self, checkpoint: Tensors, span: Span, panel: int, dtype: torch.dtype, progress: Progress) -> None:
        super().__init__(checkpoint, span, progress)
        self._panel = panel
        self._memory = WeightMemory()
        self._dtype = dtype

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.read(name, shape).float()

    def norm(self, name: str, width: int, *, centred: bool) -> torch.Tensor:
        weight = self.matrix(f"{name}.weight", (width,))
        return weight + 1.0 if centred else weight

    def table(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | PackedLinear:
        """An embedding, as it is kept."""
        weight = f"{name}.weight"
        self.check(weight, shape)
        if self._kernel([weight]) is not None:
            return self.linear([(name, shape[0])], shape[1], bias=False)
        return self._note(weight, self.read(weight, shape).to(self._kept([weight])))

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        runs: list[list[tuple[str, int]]] = []
        for part in parts:
            if runs and self._alike(f"{runs[-1][0][0]}.weight", f"{part[0]}.weight"):
                runs[-1].append(part)
            else:
                runs.append([part])
        return runs

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> PackedLinear:
        self.check_parts(parts, width)  # before a large allocation
        names, sizes = [f"{name}.weight" for name, _ in parts], [size for _, size in parts]
        kernel = self._kernel(names)
        packer: LinearPacker | QuantisedPacker
        if kernel is None:
            packer = LinearPacker(
                sizes,
                width,
                panel=self._panel,
                dtype=self._kept(names),
                bias=bias,
                whole_panels=halves,
                memory=self._memory,
            )
        else:
            packer = QuantisedPacker(
                sizes,
                width,
                panel=self._panel,
                bias=bias,
                whole_panels=halves,
                memory=self._memory,
                order=self._order(names[0]),
            )
        part = 0
        for name, together in _stacked(parts):
            for rows in self._rows(f"{name}.weight", together, width, blocks=kernel is not None):
                if isinstance(packer, QuantisedPacker):
                    packer.weight(part, rows, self._type(f"{name}.weight"))
                else:
                    packer.weight(part, self._note(f"{name}.weight", rows.to(self._kept(names))))
                part += 1
        if bias:
            biases = [self.read(f"{name}.bias", (sum(each),)) for name, each in _stacked(parts)]
            for part, values in enumerate(torch.cat(biases).split_with_sizes(sizes)):
                packer.bias(part, values)
        return packer.done()

    def _rows(self, name: str, sizes: list[int], width: int, *, blocks: bool) -> Sequence[torch.Tensor]:
        """A tensor's rows, cut into `sizes`; as they are stored where `blocks`."""
        if blocks:
            stored = self.stored(name)
            rows = self._count(self._checkpoint.read_blocks(stored), self._checkpoint.stored_bytes(stored))
            return rows.split_with_sizes(sizes)
        return self.read(name, (sum(sizes), width)).split_with_sizes(sizes)

    def _kernel(self, names: Sequence[str]) -> int | None:
        """The quantised type that these layers are kept in when they are stacked; None where they are not."""
        if self._order(names[0]) is not None and not all(".layers." in name for name in names):
            return None  # rows are looked up in an embedding, and these have their inputs as they come
        return kernel_of(self._type(names[0])) if all(self._alike(names[0], name) for name in names[1:]) else None

    def _alike(self, first: str, second: str) -> bool:
        """True where two layers can be stacked: for the same kernel, with their inputs in the same order."""
        if kernel_of(self._type(first)) != kernel_of(self._type(second)):
            return False
        one, other = self._order(first), self._order(second)
        return one is other or (one is not None and other is not None and torch.equal(one, other))

    def _order(self, name: str) -> torch.Tensor | None:
        return self._checkpoint.order(self.stored(name))

    def _kept(self, names: Sequence[str]) -> torch.dtype:
        stored = all(self.dtype(name) == torch.bfloat16 for name in names)
        return torch.bfloat16 if stored or self._dtype == torch.bfloat16 else torch.float32
