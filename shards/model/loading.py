"""Turning a checkpoint and a span into a live stage: which implementation, device and dtype."""

from __future__ import annotations

import torch

from shards.checkpoint.opening import AnyCheckpoint
from shards.errors import UnsupportedModel
from shards.model.llama import load_native_stage
from shards.model.native_config import parse_native
from shards.model.served import check_native
from shards.model.span import Span
from shards.model.stage import StageModel
from shards.progress import Progress, silent

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_stage(
    checkpoint: AnyCheckpoint,
    span: Span,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    progress: Progress = silent,
) -> StageModel:
    """Load `span` with the native path where it fully supports the model, else with the transformers adapter.

    Raises `CheckpointError` naming a tensor that is missing or has the wrong shape, `UnsupportedModel`
    when neither implementation can serve the model.
    """
    target = torch.device(device)
    chosen = choose_dtype(dtype, target, checkpoint.spec.dtype)
    if is_native(checkpoint):
        return load_native_stage(checkpoint, span, device=target, dtype=chosen, progress=progress)
    if checkpoint.form:
        check_native(checkpoint.spec, checkpoint.form)
    from shards.adapter import load_adapter_stage  # imports transformers, which takes seconds

    return load_adapter_stage(checkpoint, span, device=target, dtype=chosen, progress=progress)


def is_native(checkpoint: AnyCheckpoint) -> bool:
    """True when the native path fully supports the model. Raises `CheckpointError` on a malformed config."""
    try:
        parse_native(checkpoint.spec)
    except UnsupportedModel:
        return False
    return True


def choose_dtype(asked: str | torch.dtype, device: torch.device, stored: str) -> torch.dtype:
    """The compute dtype. `"auto"` is float32 on a CPU; elsewhere the checkpoint's own where that is a half.

    Raises `UnsupportedModel` for a dtype that the mesh cannot compute in.
    """
    if isinstance(asked, torch.dtype):
        if asked not in _DTYPES.values():
            raise UnsupportedModel(f"{asked} is no compute dtype: use one of {', '.join(_DTYPES)}")
        return asked
    if asked == "auto":
        return torch.float32 if device.type == "cpu" else _DTYPES.get(stored, torch.float32)
    if asked not in _DTYPES:
        raise UnsupportedModel(f"{asked!r} is no compute dtype: use auto or one of {', '.join(_DTYPES)}")
    return _DTYPES[asked]
