"""A model's checkpoint, whatever form it has: a folder of safetensors, quantised or not, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.packed.checkpoint import PackedCheckpoint
from shards.checkpoint.packed.config import read_packed
from shards.model.span import Span
from shards.progress import Progress, silent

AnyCheckpoint = Checkpoint | GgufCheckpoint | PackedCheckpoint


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
