"""Turning a checkpoint and a span into a live stage: which implementation, device and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from shards.checkpoint.folder import weight_files
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.model_folder import exists
from shards.checkpoint.names import check_parts, tensors_of
from shards.checkpoint.opening import AnyCheckpoint, open_checkpoint
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.llama import load_native_stage
from shards.model.native_config import parse_native
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import StageModel
from shards.model.weights import head_of
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
    if is_native(checkpoint.spec):
        return load_native_stage(checkpoint, span, device=target, dtype=chosen, progress=progress)
    from shards.adapter import load_adapter_stage  # imports transformers, which takes seconds

    return load_adapter_stage(checkpoint, span, device=target, dtype=chosen, progress=progress)


def check_servable(path: Path, spec: ModelSpec, span: Span | None = None) -> None:
    """All that can be told of a model before its weights are read, or even fetched, so that no swarm hears of it.

    With a `span`, its weight files must be there. Raises what `load_stage` would raise later, as far as config, names
    of tensors and names of files tell.
    """
    native = is_native(spec)
    if not native:
        from shards.adapter.skeleton import build  # imports transformers, which takes seconds

        build(spec, torch.float32)
    files: Mapping[str, str]
    if is_gguf(path):
        files = dict.fromkeys(open_checkpoint(path).names(), path.name)
        path = path.parent
    else:
        files = weight_files(path)
    if not files:
        return
    check_parts(files, spec.n_blocks, alike=native)
    if native:
        head_of(files, parse_native(spec))
    for name in tensors_of(files, span, spec.n_blocks) if span is not None else ():
        if not exists(path / files[name]):
            raise CheckpointError(f"{path / files[name]} is missing, which has tensors of blocks {span}: download it")


def is_native(spec: ModelSpec) -> bool:
    """True when the native path fully supports the model. Raises `CheckpointError` on a malformed config."""
    try:
        parse_native(spec)
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
