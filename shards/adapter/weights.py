"""Filling a cut skeleton: the span's tensors, read lazily and converted by transformers' own rules."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import Any

import torch

from shards.adapter.skeleton import Family, cut
from shards.checkpoint import names as tensor_names
from shards.checkpoint.opening import AnyCheckpoint
from shards.errors import CheckpointError
from shards.model.span import Span
from shards.progress import Progress

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TEXT_PREFIX = re.compile(r"^model\.(language_model|text_model)\.")


class LazyTensor:
    """A checkpoint's tensor that is read when transformers slices it, as it does safetensors' own slices."""

    def __init__(self, checkpoint: AnyCheckpoint, name: str, reader: _Reader) -> None:
        self._checkpoint = checkpoint
        self._name = name
        self._reader = reader

    def __getitem__(self, index: object) -> torch.Tensor:
        return self._reader.read(self._checkpoint, self._name)[index]  # type: ignore[index]


class _Reader:
    """Reads one tensor at a time (transformers asks from several threads) and tells how far it is."""

    def __init__(self, total: int, what: str, progress: Progress) -> None:
        self._lock = threading.Lock()
        self._done = 0
        self._total = total
        self._what = what
        self._progress = progress

    def read(self, checkpoint: AnyCheckpoint, name: str) -> torch.Tensor:
        with self._lock:
            tensor = checkpoint.read(name)
            self._done += tensor.nbytes
            self._progress(self._done, self._total, self._what)
            return tensor


def fill(
    family: Family,
    checkpoint: AnyCheckpoint,
    span: Span,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> None:
    """Cut `family.model` to `span` and load it; reads the span's tensors and no others.

    Raises `CheckpointError` naming a tensor that is missing or does not fit.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    model, n_blocks = family.model, checkpoint.spec.n_blocks
    names = tensor_names.tensors_of(checkpoint.names(), span, n_blocks)
    with_head = tensor_names.has_head(checkpoint.names())
    cut(family, span, tensor_names.tensors_of(list(model.state_dict()), span, n_blocks, with_head=with_head))
    keys = set(model.state_dict())
    model.all_tied_weights_keys = {
        target: source for target, source in model.all_tied_weights_keys.items() if target in keys and source in keys
    }
    checkpoint.check(span)
    coded = (name for name in names if name.endswith("weight") and checkpoint.dtype(name) not in _FLOATS)
    _refuse("is quantised, and nothing says what its numbers stand for", coded)
    reader = _Reader(checkpoint.nbytes(span), f"blocks {span}", progress)
    state = {_text_name(name, family): LazyTensor(checkpoint, name, reader) for name in names}
    settings = LoadStateDictConfig(
        device_map={"": device},
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
        weight_mapping=get_model_conversion_mapping(model),
    )
    info, _ = convert_and_load_state_dict_in_model(model, state, settings)
    _refuse("does not fit the config", (str(entry[0]) for entry in info.mismatched_keys))
    _refuse("could not be converted", info.conversion_errors)
    tied_keys = model.all_tied_weights_keys
    tied_names = set(tied_keys) | set(tied_keys.values())
    absent = info.missing_keys - {name for name in tied_names if not {name, tied_keys.get(name)} <= info.missing_keys}
    _refuse("is missing", absent)
    # What no checkpoint holds (rotary frequencies, masks) is computed, and tied weights are joined.
    model.mark_tied_weights_as_initialized(info)
    model._move_missing_keys_from_meta_to_device(info.missing_and_mismatched(), {"": device}, None, None)
    model._initialize_missing_keys(False)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    _refuse("is missing", left)
    model.requires_grad_(False)


def _text_name(name: str, family: Family) -> str:
    """A tensor's name in the text part: composite checkpoints say `[model.]language_model.` or the like before it."""
    if not family.composite:
        return name
    return _TEXT_PREFIX.sub("model.", name.removeprefix("language_model."))


def _refuse(what: str, names: Iterable[str]) -> None:
    first: Any = min(names, default=None)
    if first is not None:
        raise CheckpointError(f"tensor {first} {what}")
