"""A mixture's checkpoint with every expert's layers under names of their own, in whichever way they are stored.

The names are those of Qwen3-MoE's files: `mlp.gate` for the router and `mlp.experts.N.gate_proj`, `up_proj` and
`down_proj`. Stored they may also be as Mixtral's files have them (`block_sparse_moe.experts.N.w1`), all experts of a
layer in one tensor (`mlp.experts.gate_up_proj`, as transformers 5 keeps them; by layer, as GGUF files do), or as
gpt-oss has them: transposed, gate and up in turns, in floats or in MXFP4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from shards.checkpoint.gguf_header import TensorType
from shards.checkpoint.opening import AnyCheckpoint
from shards.errors import CheckpointError
from shards.model.mxfp4 import ITEMS, NARROW, NBYTES, fits, joined, widen
from shards.model.span import Span

_NAME: Final = re.compile(r"(.*\blayers\.\d+\.)mlp\.(?:gate|experts\.(\d+)\.(gate|up|down)_proj)\.(weight|bias)")
_MIXTRAL: Final = {"gate": "w1", "up": "w3", "down": "w2"}
_HALVES: Final = {"gate": 0, "up": 1}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a matrix or a bias lies: all of a tensor, or of its `[expert]` (turned over where `turned`) some rows."""

    name: str
    expert: int | None = None
    half: int | None = None
    """Of gate and up in one tensor, which."""
    turned: bool = False
    scales: str | None = None
    """Of MXFP4, the tensor with the blocks' exponents."""


class ExpertTensors:
    """What `Checkpoint` and `GgufCheckpoint` offer of a mixture's tensors, by the names above."""

    def __init__(self, checkpoint: AnyCheckpoint, experts: int) -> None:
        self._checkpoint = checkpoint
        self._experts = experts
        self._in_turns = checkpoint.spec.model_type == "gpt_oss"
        self._fits: dict[tuple[str, int | None], bool] = {}
        """Whether the kernels have the exponents of an expert's layer."""
        self._last: tuple[tuple[str, int | None], torch.Tensor] | None = None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises `CheckpointError`, also where a tensor is not one of all experts."""
        place = self._place(name)
        shape = self._checkpoint.shape(place.name)
        if place.expert is None:
            return shape
        if len(shape) < 2 or shape[0] != self._experts:
            raise CheckpointError(
                f"tensor {place.name} has shape {list(shape)}, config.json calls for {self._experts} experts"
            )
        shape = shape[1:]
        if place.scales is not None:
            shape = self._check_blocks(place.name, place.scales)
        if place.turned:
            shape = shape[::-1]
        return (len(range(shape[0])[self._rows(place, shape[0])]), *shape[1:])

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that `read` gives."""
        place = self._place(name)
        return torch.bfloat16 if place.scales is not None else self._checkpoint.dtype(place.name)

    def blocks(self, name: str) -> TensorType | None:
        """How a quantised tensor's numbers are stored; None for one that is read as floats."""
        place = self._place(name)
        if place.scales is None:
            # The kernels give an expert its inputs as they come.
            reordered = ".experts." in name and self._checkpoint.order(place.name) is not None
            return None if reordered else self._checkpoint.blocks(place.name)
        key = place.scales, place.expert
        if key not in self._fits:
            self._fits[key] = fits(self._checkpoint.read(*key))
        return NARROW if self._fits[key] else None

    def order(self, name: str) -> torch.Tensor | None:
        """Which input each column of a quantised tensor's blocks is multiplied with; None: each with its own."""
        place = self._place(name)
        return None if ".experts." in name or place.scales is not None else self._checkpoint.order(place.name)

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor in its file."""
        place = self._place(name)
        total = sum(self._checkpoint.stored_bytes(each) for each in (place.name, place.scales) if each is not None)
        parts = (1 if place.expert is None else self._experts) * (1 if place.half is None else 2)
        return total // parts

    def read(self, name: str) -> torch.Tensor:
        """A tensor on the CPU; MXFP4 in bfloat16, which has all its numbers."""
        place = self._place(name)
        whole = self._read(place)
        if place.turned:
            whole = whole.T
        return whole[self._rows(place, whole.shape[0])]

    def read_blocks(self, name: str) -> torch.Tensor:
        """The bytes of a quantised tensor's rows as they are stored."""
        place = self._place(name)
        if place.scales is None:
            rows = self._checkpoint.read_blocks(place.name, place.expert)
        else:
            parts = (self._checkpoint.read(each, place.expert) for each in (place.name, place.scales))
            rows = joined(*parts)
        return rows[self._rows(place, rows.shape[0])]

    def nbytes(self, span: Span) -> int:
        """Bytes of the tensors that a stage over `span` reads, as stored."""
        return self._checkpoint.nbytes(span)

    def _read(self, place: _Place) -> torch.Tensor:
        """The tensor or the part of it that is an expert's; kept for its other half, which is asked for next."""
        key = place.name, place.expert
        if self._last is not None and self._last[0] == key:
            whole, self._last = self._last[1], None
            return whole
        whole = self._checkpoint.read(place.name, place.expert)
        if place.scales is not None:
            whole = widen(whole, self._checkpoint.read(place.scales, place.expert))
        self._last = (key, whole) if place.half is not None else None
        return whole

    def _rows(self, place: _Place, rows: int) -> slice:
        if place.half is None:
            return slice(rows)
        if self._in_turns:
            return slice(place.half, None, 2)
        return slice(place.half * (rows // 2), rows if place.half else rows // 2)

    def _check_blocks(self, blocks: str, scales: str) -> tuple[int, ...]:
        """The shape of one expert's numbers in MXFP4."""
        shape, of_scales = self._checkpoint.shape(blocks), self._checkpoint.shape(scales)
        for name in (blocks, scales):
            if self._checkpoint.dtype(name) != torch.uint8:
                raise CheckpointError(f"tensor {name} has dtype {self._checkpoint.dtype(name)}, bytes are needed")
        if len(shape) != 4 or shape[3] != NBYTES or of_scales != shape[:3]:
            raise CheckpointError(f"tensors {blocks} {list(shape)} and {scales} {list(of_scales)} are not MXFP4")
        return shape[1], shape[2] * ITEMS

    def _place(self, name: str) -> _Place:
        return self._find(name) or _Place(name)  # whose absence the checkpoint tells

    def _find(self, name: str) -> _Place | None:
        return next((place for place in self._candidates(name) if place.name in self._checkpoint), None)

    def _candidates(self, name: str) -> Iterator[_Place]:
        yield _Place(name)
        match = _NAME.fullmatch(name)
        if match is None:
            return
        block, number, layer, kind = match.groups()
        if number is None:
            yield from (_Place(f"{block}{router}.{kind}") for router in ("block_sparse_moe.gate", "mlp.router"))
            return
        expert, half, ending = int(number), _HALVES.get(layer), "_bias" if kind == "bias" else ""
        stacked = "down_proj" if half is None else "gate_up_proj"
        for prefix in (f"{block}mlp.experts.", f"{block}block_sparse_moe.experts."):
            yield _Place(f"{prefix}{number}.{_MIXTRAL[layer]}.{kind}")
            yield _Place(f"{prefix}{layer}_proj.{kind}", expert)
            turned = self._in_turns and kind == "weight"
            yield _Place(f"{prefix}{stacked}{ending}", expert, half, turned=turned)
            if kind == "weight":
                yield _Place(f"{prefix}{stacked}_blocks", expert, half, scales=f"{prefix}{stacked}_scales")
