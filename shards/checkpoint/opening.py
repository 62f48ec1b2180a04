"""A model's checkpoint, whatever form it has: a folder of safetensors or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.errors import UnsupportedModel
from shards.model.precision import Precision
from shards.model.span import Span
from shards.progress import Progress, silent

AnyCheckpoint = Checkpoint | GgufCheckpoint | QuantisedCheckpoint


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
    checkpoint = Checkpoint.open(path, span=span, progress=progress)
    return checkpoint if precision is None else QuantisedCheckpoint(checkpoint, precision)
