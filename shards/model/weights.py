"""A span's weights read from a checkpoint into the native path's fused layout."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from shards.checkpoint.opening import AnyCheckpoint
from shards.errors import CheckpointError
from shards.model.linear import Linear
from shards.model.native_config import NativeConfig
from shards.model.packing import LinearPacker, PackedLinear, WeightMemory
from shards.model.quantised import QuantisedPacker, kernel_of
from shards.model.span import Span
from shards.progress import Progress

logger = logging.getLogger(__name__)

L = TypeVar("L")
L_co = TypeVar("L_co", covariant=True)
_EMBEDDING = "model.embed_tokens"
_HEAD = "lm_head"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True)
class BlockWeights(Generic[L]):
    """One block, with gate-up fused; norms are [hidden], `qk_norm` [heads + kv_heads, head_dim].

    Queries, keys and values are fused as far as they are stored alike: `qkv` gives them one after another.
    """

    attention_norm: torch.Tensor
    qkv: Sequence[L]
    qk_norm: torch.Tensor | None
    o: L
    mlp_norm: torch.Tensor
    gate_up: L
    down: L


@dataclass(frozen=True, slots=True)
class SpanWeights(Generic[L]):
    """A span's blocks; on the first stage the embedding [vocab, hidden], on the last final norm and head."""

    blocks: Sequence[BlockWeights[L]]
    embedding: torch.Tensor | None
    final_norm: torch.Tensor | None
    head: L | None
    table: L | None = None
    """The embedding, where it is a quantised matrix of its own."""


def load_span(
    checkpoint: AnyCheckpoint,
    config: NativeConfig,
    span: Span,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> SpanWeights[Linear]:
    """Read a span's tensors, one at a time, and nothing else.

    Raises `CheckpointError` naming the tensor that is missing, of the wrong shape or not of floats.
    """
    reader = _TorchReader(checkpoint, span, device, dtype, progress)
    vocabulary = (config.vocab_size, config.hidden_size)
    first, last = span.start == 0, span.end == config.n_blocks
    table = reader.matrix(f"{_EMBEDDING}.weight", vocabulary) if first else None
    blocks = [_load_block(reader, config, f"model.layers.{block}.") for block in span]
    if not last:
        return SpanWeights(blocks, table, None, None)
    final_norm = reader.matrix("model.norm.weight", (config.hidden_size,))
    name = head_of(checkpoint, config)
    if name != _EMBEDDING or table is None:
        head = Linear(reader.matrix(f"{name}.weight", vocabulary))
    else:
        head = Linear(table, pack=False)  # rows are also looked up in it, so it stays as it is
    return SpanWeights(blocks, table, final_norm, head)


def load_packed_span(
    checkpoint: AnyCheckpoint,
    config: NativeConfig,
    span: Span,
    *,
    panel: int,
    dtype: torch.dtype,
    progress: Progress,
) -> SpanWeights[PackedLinear]:
    """The same for the native kernels, in panels of `panel` outputs.

    Linear layers that are stored in bfloat16 stay so (they are widened as they are used, which is exact), as do all
    when `dtype` is bfloat16; others are float32, and so are norms and biases. Quantised ones stay so where a kernel
    fits, else they are widened. Rows of a tied head's panels are also the embedding, where both are here.
    """
    reader = _PackedReader(checkpoint, span, panel, dtype, progress)
    vocabulary = (config.vocab_size, config.hidden_size)
    first, last = span.start == 0, span.end == config.n_blocks
    name = head_of(checkpoint, config) if last else None
    table = reader.table(_EMBEDDING, vocabulary) if first and name != _EMBEDDING else None
    embedding, quantised = (None, table) if isinstance(table, PackedLinear) else (table, None)
    blocks = [_load_block(reader, config, f"model.layers.{block}.") for block in span]
    final_norm, head = None, None
    if name is not None:
        final_norm = reader.matrix("model.norm.weight", (config.hidden_size,))
        head = reader.linear([(name, config.vocab_size)], config.hidden_size, bias=False)
    if reader.widened:
        logger.warning("no kernel for %s in one layer: widened to 32 bits", ", ".join(sorted(reader.widened)))
    return SpanWeights(blocks, embedding, final_norm, head, quantised)


def head_of(names: Container[str], config: NativeConfig) -> str:
    """The layer that is the head, in a checkpoint of such tensors: its own where it has one, as transformers takes it.

    Raises `CheckpointError` where it has none.
    """
    if f"{_HEAD}.weight" in names:
        return _HEAD
    if config.tied:
        return _EMBEDDING
    raise CheckpointError(
        f"there is no tensor {_HEAD}.weight, and config.json does not say that the embedding is the head: if it is, "
        "set tie_word_embeddings to true there, else take a copy of the model that was saved with its head"
    )


class _Layers(Protocol[L_co]):
    """What a block is read with."""

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of exactly `shape`."""

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        """The same linear layers, in runs of those that can be stacked."""

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> L_co:
        """The linear layers `parts` (name, outputs), all over `width` inputs, stacked into one."""


def _load_block(reader: _Layers[L], config: NativeConfig, prefix: str) -> BlockWeights[L]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    qk_norm = None
    if config.qk_norm:
        rows = [
            reader.matrix(f"{prefix}self_attn.{name}_norm.weight", (config.head_dim,)).expand(heads, -1)
            for name, heads in (("q", config.n_heads), ("k", config.n_kv_heads))
        ]
        qk_norm = torch.cat(rows)
    qkv = [(f"{prefix}self_attn.{name}_proj", size) for name, size in (("q", q), ("k", kv), ("v", kv))]
    return BlockWeights(
        attention_norm=reader.matrix(f"{prefix}input_layernorm.weight", (hidden,)),
        qkv=[reader.linear(parts, hidden, bias=config.qkv_bias) for parts in reader.alike(qkv)],
        qk_norm=qk_norm,
        o=reader.linear([(f"{prefix}self_attn.o_proj", hidden)], q, bias=config.o_bias),
        mlp_norm=reader.matrix(f"{prefix}post_attention_layernorm.weight", (hidden,)),
        gate_up=reader.linear(
            [(f"{prefix}mlp.{name}_proj", inner) for name in ("gate", "up")],
            hidden,
            bias=config.mlp_bias,
            halves=True,
        ),
        down=reader.linear([(f"{prefix}mlp.down_proj", hidden)], inner, bias=config.mlp_bias),
    )


class _Reader:
    """Reads checked tensors and counts the bytes for `progress`."""

    def __init__(self, checkpoint: AnyCheckpoint, span: Span, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._what = f"loading blocks {span}"
        self._done, self._total = 0, checkpoint.nbytes(span)

    def stored(self, name: str) -> str:
        """The checkpoint's name of a tensor: one that was saved without its head has no `model.` before the others."""
        short = name.removeprefix("model.")
        return short if name not in self._checkpoint and short in self._checkpoint else name

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._checkpoint.shape(self.stored(name))
        if found != shape:
            raise CheckpointError(f"tensor {name} has shape {list(found)}, config.json calls for {list(shape)}")
        if self.dtype(name) not in _FLOATS:
            raise CheckpointError(f"tensor {name} has dtype {self.dtype(name)}, floats are needed")

    def dtype(self, name: str) -> torch.dtype:
        return self._checkpoint.dtype(self.stored(name))

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.check(name, shape)
        stored = self.stored(name)
        return self._count(self._checkpoint.read(stored), self._checkpoint.stored_bytes(stored))

    def _count(self, tensor: torch.Tensor, nbytes: int | None = None) -> torch.Tensor:
        self._done += tensor.nbytes if nbytes is None else nbytes
        self._progress(self._done, self._total, self._what)
        return tensor


class _TorchReader(_Reader):
    """Tensors on the device in the compute dtype."""

    def __init__(
        self, checkpoint: AnyCheckpoint, span: Span, device: torch.device, dtype: torch.dtype, progress: Progress
    ) -> None:
        super().__init__(checkpoint, span, progress)
        self._device = device
        self._dtype = dtype

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.read(name, shape).to(device=self._device, dtype=self._dtype)

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        return [list(parts)]

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> Linear:
        outputs = sum(size for _, size in parts)
        for name, size in parts:
            self.check(f"{name}.weight", (size, width))  # before a large allocation
        weight = torch.empty(outputs, width, device=self._device, dtype=self._dtype)
        offset = torch.empty(outputs, device=self._device, dtype=self._dtype) if bias else None
        row = 0
        for name, size in parts:
            weight[row : row + size] = self.read(f"{name}.weight", (size, width))
            if offset is not None:
                offset[row : row + size] = self.read(f"{name}.bias", (size,))
            row += size
        return Linear(weight, offset)


class _PackedReader(_Reader):
    """Linear layers in panels, everything else in float32."""

    def __init__(
        self, checkpoint: AnyCheckpoint, span: Span, panel: int, dtype: torch.dtype, progress: Progress
    ) -> None:
        super().__init__(checkpoint, span, progress)
        self._panel = panel
        self._memory = WeightMemory()
        self._dtype = dtype
        self.widened: set[str] = set()
        """Types of blocks for which there is no kernel."""

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.read(name, shape).float()

    def table(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | PackedLinear:
        """An embedding, as it is kept."""
        weight = f"{name}.weight"
        self.check(weight, shape)
        if self._kernel([weight]) is not None:
            return self.linear([(name, shape[0])], shape[1], bias=False)
        return self.read(weight, shape).to(self._kept([weight]))

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        runs = itertools.groupby(parts, key=lambda part: kernel_of(self._type(f"{part[0]}.weight")))
        return [list(run) for _, run in runs]

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> PackedLinear:
        names, sizes = [f"{name}.weight" for name, _ in parts], [size for _, size in parts]
        for name, size in zip(names, sizes, strict=True):
            self.check(name, (size, width))  # before a large allocation
        kernel = self._kernel(names)
        packer: LinearPacker | QuantisedPacker
        if kernel is None:
            packer = LinearPacker(
                sizes,
                width,
                panel=self._panel,
                dtype=self._kept(names),
                bias=bias,
                whole_panels=halves,
                memory=self._memory,
            )
        else:
            packer = QuantisedPacker(
                sizes, width, panel=self._panel, bias=bias, whole_panels=halves, memory=self._memory
            )
        for part, (name, size) in enumerate(parts):
            if isinstance(packer, QuantisedPacker):
                rows = self._count(self._checkpoint.read_blocks(self.stored(f"{name}.weight")))
                packer.weight(part, rows, self._type(f"{name}.weight"))
            else:
                packer.weight(part, self.read(f"{name}.weight", (size, width)))
            if bias:
                packer.bias(part, self.read(f"{name}.bias", (size,)))
        return packer.done()

    def _type(self, name: str) -> str:
        """How a tensor is stored: the name of its blocks, or nothing for plain floats."""
        blocks = self._checkpoint.blocks(self.stored(name))
        return "" if blocks is None else blocks.name

    def _kernel(self, names: Sequence[str]) -> int | None:
        """The quantised type that these layers are kept in when they are stacked; None where they are not."""
        types = {self._type(name) for name in names}
        kernels = {kernel_of(each) for each in types}
        if len(kernels) == 1 and None not in kernels:
            return kernels.pop()
        self.widened |= types - {""}
        return None

    def _kept(self, names: Sequence[str]) -> torch.dtype:
        stored = all(self.dtype(name) == torch.bfloat16 for name in names)
        return torch.bfloat16 if stored or self._dtype == torch.bfloat16 else torch.float32
