"""Turning a checkpoint and a span into a live stage: which implementation, device and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from shards.checkpoint.folder import tensor_files
from shards.checkpoint.gguf_header import is_gguf
from shards.checkpoint.model_folder import exists
from shards.checkpoint.names import check_parts, tensors_of
from shards.checkpoint.opening import AnyCheckpoint, open_checkpoint
from shards.checkpoint.packed.config import is_quantised, without
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.llama import load_native_stage
from shards.model.native_config import NativeConfig, parse_native
from shards.model.precision import SLICE
from shards.model.served import check_native, served_form
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import StageModel
from shards.model.weights import head_of
from shards.native.library import native_library
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
    if isinstance(checkpoint, QuantisedCheckpoint):
        check_quantisable(checkpoint.spec, target, chosen)
    if is_native(checkpoint.spec):
        return load_native_stage(checkpoint, span, device=target, dtype=chosen, progress=progress)
    if checkpoint.form:
        check_native(checkpoint.spec, checkpoint.form)
    from shards.adapter import load_adapter_stage  # imports transformers, which takes seconds

    return load_adapter_stage(checkpoint, span, device=target, dtype=chosen, progress=progress)


def check_servable(path: Path, spec: ModelSpec, span: Span | None = None) -> None:
    """All that can be told of a model before its weights are read, or even fetched, so that no swarm hears of it.

    With a `span`, its weight files must be there. Raises what `load_stage` would raise later, as far as config, names
    of tensors and names of files tell.
    """
    packed = None if is_gguf(path) else served_form(path, spec)
    if packed is not None:
        spec = without(spec)
    native = is_native(spec)
    if not native:
        from shards.adapter.skeleton import build  # imports transformers, which takes seconds

        build(spec, torch.float32)
    files: Mapping[str, str]
    if is_gguf(path):
        files = dict.fromkeys(open_checkpoint(path).names(), path.name)
        path = path.parent
    else:
        files = tensor_files(path)
    if not files:
        return
    if packed is None:  # whose layers are of several tensors each
        check_parts(files, spec.n_blocks, alike=native and parse_native(spec).experts is None)
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


def check_quantisable(spec: ModelSpec, device: torch.device, dtype: torch.dtype, path: Path | None = None) -> None:
    """Whether weights can be quantised for this; looks at no weight, but may have to build the kernels.

    Raises `UnsupportedModel` with the reason and a way out. `path` is where the model is, if that is known.
    """
    if path is not None and is_gguf(path):
        raise UnsupportedModel(f"--quantize: {path.name} is a GGUF file, which has its own precision: leave it out")
    if is_quantised(spec.raw):
        raise UnsupportedModel("--quantize: the weights are quantised already (quantization_config): leave it out")
    try:
        config = parse_native(spec)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"--quantize needs the native path, but {error}: leave it out") from error
    if config.experts is not None:
        raise UnsupportedModel("--quantize does not quantise mixtures of experts yet: take a GGUF file of the model")
    if device.type != "cpu":
        raise UnsupportedModel(
            f"--quantize has kernels for CPUs only, not for {device}: leave it out or use --device cpu"
        )
    if dtype not in (torch.float32, torch.bfloat16):
        raise UnsupportedModel(f"--quantize computes in float32 or bfloat16, not in {dtype}: choose one with --dtype")
    uneven = {name: width for name, width in _widths(config).items() if width % SLICE}
    if uneven:
        name, width = next(iter(uneven.items()))
        raise UnsupportedModel(f"--quantize needs widths in multiples of {SLICE}, but {name} is {width}: leave it out")
    if native_library() is None:
        raise UnsupportedModel(
            "--quantize needs the native kernels, which cannot be had here (the log says why): install a C++ compiler "
            "and leave MESH_NATIVE unset, or leave --quantize out"
        )


def _widths(config: NativeConfig) -> dict[str, int]:
    """Over how many inputs the linear layers go."""
    return {
        "hidden_size": config.hidden_size,
        "heads × head_dim": config.n_heads * config.head_dim,
        "intermediate_size": config.intermediate_size,
    }


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
