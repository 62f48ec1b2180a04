"""What a span's weights take in memory once they are loaded, before they are."""

from __future__ import annotations

import math

import torch

from shards.checkpoint.opening import AnyCheckpoint
from shards.model.llama import kernels_for
from shards.model.loading import is_native
from shards.model.quantised import bytes_of
from shards.model.span import Span


def loaded_bytes(checkpoint: AnyCheckpoint, span: Span, *, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes of a span's tensors on `device`, where they are computed with in `dtype`.

    Blocks that are widened only because what they are stacked with is of another type are counted as if they stayed.
    Raises `CheckpointError` as loading would.
    """
    native = is_native(checkpoint.spec) and kernels_for(device, dtype) is not None
    return sum(
        _kept(checkpoint, name, dtype) if native else math.prod(checkpoint.shape(name)) * dtype.itemsize
        for name in checkpoint.tensors_of(span)
    )


def _kept(checkpoint: AnyCheckpoint, name: str, dtype: torch.dtype) -> int:
    """What the native kernels read: blocks, bfloat16 as it is stored, else float32."""
    count, kind = math.prod(checkpoint.shape(name)), checkpoint.blocks(name)
    quantised = None if kind is None else bytes_of(kind.name, count)
    if quantised is not None:
        return quantised
    half = torch.bfloat16 in (dtype, checkpoint.dtype(name)) and len(checkpoint.shape(name)) == 2
    return count * (2 if half else 4)
