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
from shards.model.span import Span
from shards.progress import Progress, silent

AnyCheckpoint = Checkpoint | GgufCheckpoint | PackedCheckpoint


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


def open_checkpoint(path: Path, *, span: Span | None = None, progress: Progress = silent) -> AnyCheckpoint:
    """Open it; with a `span`, also check all that the span needs.

    Raises `CheckpointError`, or `UnsupportedModel` when it lacks a shape or is of a form that is not read.
    """
    if is_gguf(path):
        return GgufCheckpoint.open(path, span=span)
    plain = Checkpoint.open(path, progress=progress)
    config = read_packed(path, plain.spec)
    checkpoint = plain if config is None else PackedCheckpoint(plain, config)
    if span is not None:
        checkpoint.check(span)
    return checkpoint
