"""A model's checkpoint, whatever form it has: a folder of safetensors or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.model.span import Span
from shards.progress import Progress, silent

AnyCheckpoint = Checkpoint | GgufCheckpoint | QuantisedCheckpoint


def open_checkpoint(path: Path, *, span: Span | None = None, progress: Progress = silent) -> AnyCheckpoint:
    """Open it; with a `span`, also check all that the span needs.

    Raises `CheckpointError`, or `UnsupportedModel` when it lacks a shape or is of a form that is not read.
    """
    return (
        GgufCheckpoint.open(path, span=span) if is_gguf(path) else Checkpoint.open(path, span=span, progress=progress)
    )
