"""A folder of quantised safetensors as a checkpoint: each quantised layer appears as one tensor, its `weight`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from shards.checkpoint import names as tensor_names
from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.gguf_header import TensorType
from shards.checkpoint.packed.config import without
from shards.checkpoint.packed.fields import WAY_OUT
from shards.checkpoint.packed.layouts import ASIDE, LAYOUTS, Layer, layer_of
from shards.checkpoint.packed.numbers import BLOCKS, block_of
from shards.checkpoint.packed.scheme import PackedConfig
from shards.errors import CheckpointError, UnsupportedModel
from shards.model.span import Span
from shards.model.spec import ModelSpec

_WEIGHT: Final = "weight"


class PackedCheckpoint:
    """A checkpoint folder in a quantised form. What it offers is that of `folder.Checkpoint`.

    Every method that touches a file raises `CheckpointError` when a layer's tensors do not fit together or are not
    those that the settings call for.
    """

    def __init__(self, checkpoint: Checkpoint, config: PackedConfig) -> None:
        """Raises `CheckpointError` and `UnsupportedModel` for tensors that are not of the form that is named."""
        self.folder: Path = checkpoint.folder
        self.spec: ModelSpec = without(checkpoint.spec)
        self.form = config.form
        self._checkpoint, self._config = checkpoint, config
        self._parts = _layers(checkpoint, config)
        self._layers: dict[str, Layer] = {}
        parts = {name for each in self._parts.values() for name in each.values()}
        kept = [name for name in checkpoint.names() if name not in parts and name.rpartition(".")[2] not in ASIDE]
        self._names = sorted([*kept, *self._parts])
        self._known = frozenset(self._names)

    def names(self) -> Sequence[str]:
        """The names of all tensors as they are once widened, sorted."""
        return self._names

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        if name not in self._parts:
            return self._checkpoint.shape(name)
        layer = self._layer(name)
        return layer.outputs, layer.inputs

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that `read` gives."""
        return torch.float32 if name in self._parts else self._checkpoint.dtype(name)

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor, or of a layer's tensors, in their files."""
        parts = self._parts.get(name)
        return sum(self._checkpoint.stored_bytes(each) for each in ([name] if parts is None else parts.values()))

    def blocks(self, name: str) -> TensorType | None:
        """How a quantised layer's numbers are given by `read_blocks`; None for one of floats.

        A type that is none of `BLOCKS` is for a message: such a layer can only be widened.
        """
        if name not in self._parts:
            return None
        layer = self._layer(name)
        kind = block_of(layer.scheme.code, layer.columns, layer.inputs)
        if kind is not None and (layer.order is None or layer.sorted is not None):
            return kind
        uneven = "uneven " if layer.order is not None and layer.sorted is None else ""
        return TensorType(f"{self._config.method} {layer.scheme.code} in {uneven}groups of {layer.columns}", 1, 1)

    def order(self, name: str) -> torch.Tensor | None:
        """Which input each column of `read_blocks` is multiplied with, int64 [inputs]; None: each with its own."""
        return self._layer(name).sorted if name in self._parts else None

    def read(self, name: str, index: int | None = None) -> torch.Tensor:
        """A tensor, or `[index]` of it, on the CPU; a quantised layer in float32, exactly what it stands for."""
        if name not in self._parts:
            return self._checkpoint.read(name, index)
        widened = self._layer(name).read().widened()
        return widened if index is None else widened[index]

    def read_blocks(self, name: str, index: int | None = None) -> torch.Tensor:
        """A quantised layer's rows in blocks, uint8 [outputs, bytes of a row], columns in their `order`."""
        kind = self.blocks(name)
        if kind is None or kind.name not in BLOCKS or index is not None:
            raise CheckpointError(f"{self._checkpoint.where(name)} has no blocks")
        layer = self._layer(name)
        return layer.read().blocks(kind, layer.sorted)

    def tensors_of(self, span: Span) -> list[str]:
        """The names of the tensors that a stage over `span` reads (see `tensor_names.tensors_of`)."""
        return tensor_names.tensors_of(self.names(), span, self.spec.n_blocks)

    def nbytes(self, span: Span) -> int:
        """Bytes of the tensors that a stage over `span` reads, as stored."""
        return sum(self.stored_bytes(name) for name in self.tensors_of(span))

    def check(self, span: Span) -> None:
        """Check every file that `span` needs, and that its layers' tensors fit together (small ones are read)."""
        self._checkpoint.check(span)
        for name in self.tensors_of(span):
            if name in self._parts:
                self._layer(name)

    def _layer(self, name: str) -> Layer:
        found = self._layers.get(name)
        if found is None:
            found = self._layers[name] = layer_of(self._checkpoint, self._config, self._parts[name])
        return found


def _layers(checkpoint: Checkpoint, config: PackedConfig) -> dict[str, dict[str, str]]:
    """The quantised layers by the name of their weight: their tensors' names by what they end in."""
    layout = LAYOUTS[config.layout]
    modules: dict[str, dict[str, str]] = {}
    for name in checkpoint.names():
        module, _, end = name.rpartition(".")
        modules.setdefault(module, {})[end] = name
    layers: dict[str, dict[str, str]] = {}
    for module, tensors in modules.items():
        if not tensors.keys() & layout.marks:
            continue
        unknown = tensors.keys() - layout.parts - ASIDE - {"bias"}
        if unknown:
            raise UnsupportedModel(
                f"{checkpoint.folder}: {module} has a tensor {min(unknown)}, which is nothing of {config.method} "
                f"weights that is read: {WAY_OUT}"
            )
        if module in config.whole:
            raise CheckpointError(
                f"{checkpoint.folder}: {module} is quantised, and {config.source} says that it is not"
            )
        layers[f"{module}.{_WEIGHT}"] = {end: name for end, name in tensors.items() if end in layout.parts}
    if not layers:
        raise CheckpointError(f"{checkpoint.folder}: {config.source} says {config.method}, but no layer is quantised")
    return layers
