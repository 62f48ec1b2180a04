"""A checkpoint folder whose linear layers are quantised as they are read, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.gguf import widened
from shards.checkpoint.gguf_header import TensorType
from shards.errors import CheckpointError
from shards.model.precision import Precision
from shards.model.quantise import quantise
from shards.model.span import Span


class QuantisedCheckpoint:
    """`checkpoint` with its linear layers, embedding and head in `precision`. What it offers is that of `Checkpoint`.

    `stored_bytes` and `nbytes` are those of the blocks, as they are then kept in memory.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        method: Callable[[torch.Tensor, str], torch.Tensor] = quantise,
    ) -> None:
        self.folder = checkpoint.folder
        self.spec = checkpoint.spec
        self.precision = precision
        self.form = str(precision)
        self._checkpoint = checkpoint
        self._quantise = method

    def names(self) -> Sequence[str]:
        """The names of all tensors, sorted."""
        return self._checkpoint.names()

    def __contains__(self, name: object) -> bool:
        return name in self._checkpoint

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._checkpoint.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that `read` gives."""
        return self._checkpoint.dtype(name) if self.blocks(name) is None else torch.float32

    def blocks(self, name: str) -> TensorType | None:
        """How a tensor's numbers are quantised; None for one that stays as it is."""
        kind = self.precision.type_of(name, self.spec.n_blocks)
        if kind is None or not self._checkpoint.dtype(name).is_floating_point:
            return None
        shape = self._checkpoint.shape(name)
        return kind if len(shape) == 2 and shape[1] % kind.items == 0 else None

    def order(self, name: str) -> torch.Tensor | None:
        """Which input each column of a quantised tensor's blocks is multiplied with: each with its own, always."""
        return None

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor once it is quantised."""
        kind = self.blocks(name)
        if kind is None:
            return self._checkpoint.stored_bytes(name)
        outputs, inputs = self._checkpoint.shape(name)
        return outputs * (inputs // kind.items * kind.nbytes)

    def read(self, name: str, index: int | None = None) -> torch.Tensor:
        """A tensor, or `[index]` of it, on the CPU; quantised ones in float32, exactly what their blocks stand for."""
        kind = self.blocks(name)
        if kind is None:
            return self._checkpoint.read(name, index)
        whole = widened(self.read_blocks(name), kind)
        return whole if index is None else whole[index]

    def read_blocks(self, name: str, index: int | None = None) -> torch.Tensor:
        """The rows of a tensor in blocks, uint8 [outputs, bytes of a row]."""
        kind = self.blocks(name)
        if kind is None or index is not None:
            raise CheckpointError(f"{self.folder}: {name} is not quantised")
        weight = self._checkpoint.read(name)
        try:
            return self._quantise(weight, kind.name)
        except CheckpointError as error:
            raise CheckpointError(f"{self.folder}: {name} has {error}: serve it without --quantize") from error

    def tensors_of(self, span: Span) -> list[str]:
        """The names of the tensors that a stage over `span` reads."""
        return self._checkpoint.tensors_of(span)

    def nbytes(self, span: Span) -> int:
        """Bytes of the tensors that a stage over `span` reads, quantised."""
        return sum(self.stored_bytes(name) for name in self.tensors_of(span))

    def check(self, span: Span) -> None:
        """See `Checkpoint.check`."""
        self._checkpoint.check(span)
