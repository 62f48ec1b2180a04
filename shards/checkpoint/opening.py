"""A model's checkpoint, whatever form it has: a folder of safetensors, quantised or not, or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_header import TensorType, is_gguf
from shards.checkpoint.packed.checkpoint import PackedCheckpoint
from shards.checkpoint.packed.config import read_packed
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.errors import UnsupportedModel
from shards.model.precision import Precision
from shards.model.span import Span
from shards.progress import Progress, silent

AnyCheckpoint = Checkpoint | GgufCheckpoint | PackedCheckpoint | QuantisedCheckpoint


class Tensors(Protocol):
    """What a checkpoint, or another way to see one, offers of its tensors; see `Checkpoint` and `GgufCheckpoint`."""

    def __contains__(self, name: object) -> bool: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> torch.dtype: ...
    def blocks(self, name: str) -> TensorType | None: ...
    def order(self, name: str) -> torch.Tensor | None: ...
    def stored_bytes(self, name: str) -> int: ...
    def read(self, name: str) -> torch.Tensor: ...
    def read_blocks(self, name: str) -> torch.Tensor: ...
    def nbytes(self, span: Span) -> int: ...


def open_checkpoint(
    path: Path, *, span: Span | None = None, precision: Precision | None = None, progress: Progress = silent
) -> AnyCheckpoint:
    """Open it; with a `span`, also check all that the span needs. With a `precision` weights are quantised when read.

    Raises `CheckpointError`, or `UnsupportedModel` when it lacks a shape or is of a form that is not read.
    """
    if is_gguf(path):
        if precision is not None:
            raise UnsupportedModel(f"--quantize: {path.name} is a GGUF file, which has its own precision: leave it out")
        return GgufCheckpoint.open(path, span=span)
    plain = Checkpoint.open(path, progress=progress)
    config = read_packed(path, plain.spec)
    checkpoint: AnyCheckpoint = plain if config is None else PackedCheckpoint(plain, config)
    if precision is not None:
        if not isinstance(checkpoint, Checkpoint):
            raise UnsupportedModel("--quantize: the weights are quantised already: leave it out")
        checkpoint = QuantisedCheckpoint(checkpoint, precision)
    if span is not None:
        checkpoint.check(span)
    return checkpoint
