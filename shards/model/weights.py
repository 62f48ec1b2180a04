"""A span's weights read from a checkpoint into the native path's fused layout."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from shards.checkpoint.opening import AnyCheckpoint, Tensors
from shards.errors import CheckpointError
from shards.model.expert_tensors import ExpertTensors
from shards.model.experts import ExpertWeights
from shards.model.linear import Linear
from shards.model.native_config import NativeConfig
from shards.model.packing import LinearPacker, PackedLinear, WeightMemory
from shards.model.quantised import QuantisedPacker, kernel_of
from shards.model.span import Span
from shards.progress import Progress

logger = logging.getLogger(__name__)

L = TypeVar("L")
L_co = TypeVar("L_co", covariant=True)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INPUT_NORMS = ("input_layernorm", "post_attention_layernorm")
_SANDWICH_NORMS = ("input_layernorm", "pre_feedforward_layernorm")
_OUTPUT_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
"""Gemma calls the norm after attention what others call the one before the MLP."""


@dataclass(frozen=True, slots=True)
class DenseWeights(Generic[L]):
    """A block's MLP, with gate-up fused."""

    gate_up: L
    down: L


@dataclass(frozen=True, slots=True)
class BlockWeights(Generic[L]):
    """One block; norms are [hidden], `qk_norm` [heads + kv_heads, head_dim], `sinks` [heads].

    Queries, keys and values are fused as far as they are stored alike: `qkv` gives them one after another.
    """

    attention_norm: torch.Tensor
    qkv: Sequence[L]
    qk_norm: torch.Tensor | None
    o: L
    mlp_norm: torch.Tensor
    mlp: DenseWeights[L] | ExpertWeights[L]
    sinks: torch.Tensor | None = None
    attention_out_norm: torch.Tensor | None = None
    mlp_out_norm: torch.Tensor | None = None
    """Of what attention and MLP give, before it is added to the hidden states."""

    def linears(self) -> Iterator[L]:
        """All of its linear layers."""
        yield from (*self.qkv, self.o)
        if isinstance(self.mlp, DenseWeights):
            yield from (self.mlp.gate_up, self.mlp.down)
        else:
            yield from (self.mlp.router, *self.mlp.gate_up, *self.mlp.down)


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
    reader = _TorchReader(_tensors(checkpoint, config), span, device, dtype, progress)
    vocabulary = (config.vocab_size, config.hidden_size)
    first, last = span.start == 0, span.end == config.n_blocks
    table = reader.matrix("model.embed_tokens.weight", vocabulary) if first else None
    blocks = [_load_block(reader, config, block) for block in span]
    if not last:
        return SpanWeights(blocks, table, None, None)
    final_norm = reader.norm("model.norm", config.hidden_size, centred=config.centred_norms)
    if not config.tied:
        head = Linear(reader.matrix("lm_head.weight", vocabulary))
    elif table is not None:
        head = Linear(table, pack=False)  # rows are also looked up in it, so it stays as it is
    else:
        head = Linear(reader.matrix("model.embed_tokens.weight", vocabulary))
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
    reader = _PackedReader(_tensors(checkpoint, config), span, panel, dtype, progress)
    vocabulary = (config.vocab_size, config.hidden_size)
    first, last = span.start == 0, span.end == config.n_blocks
    table = reader.table("model.embed_tokens", vocabulary) if first and not (last and config.tied) else None
    embedding, quantised = (None, table) if isinstance(table, PackedLinear) else (table, None)
    blocks = [_load_block(reader, config, block) for block in span]
    final_norm, head = None, None
    if last:
        final_norm = reader.norm("model.norm", config.hidden_size, centred=config.centred_norms)
        name = "model.embed_tokens" if config.tied else "lm_head"
        head = reader.linear([(name, config.vocab_size)], config.hidden_size, bias=False)
    if reader.widened:
        logger.warning("no kernel for %s in one layer: widened to 32 bits", ", ".join(sorted(reader.widened)))
    return SpanWeights(blocks, embedding, final_norm, head, quantised)


class _Layers(Protocol[L_co]):
    """What a block is read with."""

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of this shape that belongs to no linear layer."""

    def norm(self, name: str, width: int, *, centred: bool) -> torch.Tensor:
        """A norm's weight [width]; where `centred`, one is added in float32, and it stays in that."""

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        """The same linear layers, in runs of those that can be stacked."""

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> L_co:
        """The linear layers `parts` (name, outputs), all over `width` inputs, stacked into one.

        Neighbours of one name lie in one tensor, one after another.
        """


def _tensors(checkpoint: AnyCheckpoint, config: NativeConfig) -> Tensors:
    return checkpoint if config.experts is None else ExpertTensors(checkpoint, config.experts.count)


def _load_block(reader: _Layers[L], config: NativeConfig, block: int) -> BlockWeights[L]:
    prefix, hidden = f"model.layers.{block}.", config.hidden_size
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim

    def norm(name: str, width: int = hidden) -> torch.Tensor:
        return reader.norm(f"{prefix}{name}", width, centred=config.centred_norms)

    qk_norm = None
    if config.qk_norm:
        rows = [
            norm(f"self_attn.{name}_norm", config.head_dim).expand(heads, -1)
            for name, heads in (("q", config.n_heads), ("k", config.n_kv_heads))
        ]
        qk_norm = torch.cat(rows)
    attention_norm, mlp_norm = map(norm, _SANDWICH_NORMS if config.output_norms else _INPUT_NORMS)
    attention_out_norm, mlp_out_norm = map(norm, _OUTPUT_NORMS) if config.output_norms else (None, None)
    projections = ("qkv", "qkv", "qkv") if config.fused_names else ("q", "k", "v")
    qkv = [(f"{prefix}self_attn.{name}_proj", size) for name, size in zip(projections, (q, kv, kv), strict=True)]
    return BlockWeights(
        attention_norm=attention_norm,
        qkv=[reader.linear(parts, hidden, bias=config.qkv_bias) for parts in reader.alike(qkv)],
        qk_norm=qk_norm,
        o=reader.linear([(f"{prefix}self_attn.o_proj", hidden)], q, bias=config.o_bias),
        mlp_norm=mlp_norm,
        mlp=_load_mlp(reader, config, block, f"{prefix}mlp."),
        sinks=reader.matrix(f"{prefix}self_attn.sinks", (config.n_heads,)) if config.sinks else None,
        attention_out_norm=attention_out_norm,
        mlp_out_norm=mlp_out_norm,
    )


def _load_mlp(reader: _Layers[L], config: NativeConfig, block: int, prefix: str) -> DenseWeights[L] | ExpertWeights[L]:
    hidden, experts = config.hidden_size, config.experts

    def gate_up(name: str, inner: int, *, bias: bool) -> L:
        parts = [(f"{name}{part}_proj", inner) for part in (("gate_up",) * 2 if config.fused_names else ("gate", "up"))]
        return reader.linear(parts, hidden, bias=bias, halves=True)

    if experts is None or not experts.blocks[block]:
        inner, bias = config.intermediate_size, config.mlp_bias
        fused = gate_up(prefix, inner, bias=bias)
        return DenseWeights(fused, reader.linear([(f"{prefix}down_proj", hidden)], inner, bias=bias))
    inner, bias = experts.inner, experts.bias
    names = [f"{prefix}experts.{expert}." for expert in range(experts.count)]
    return ExpertWeights(
        router=reader.linear([(f"{prefix}gate", experts.count)], hidden, bias=bias),
        gate_up=[gate_up(name, inner, bias=bias) for name in names],
        down=[reader.linear([(f"{name}down_proj", hidden)], inner, bias=bias) for name in names],
    )


def _stacked(parts: Sequence[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    """The layers of a stack by the tensor that holds them: its name, and the outputs of each."""
    runs = itertools.groupby(parts, key=lambda part: part[0])
    return [(name, [size for _, size in run]) for name, run in runs]


class _Reader:
    """Reads checked tensors and counts the bytes for `progress`."""

    def __init__(self, checkpoint: Tensors, span: Span, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._what = f"loading blocks {span}"
        self._done, self._total = 0, checkpoint.nbytes(span)

    def stored(self, name: str) -> str:
        """The checkpoint's name of a tensor.

        One that was saved without its head has no `model.` before the others; one of a model that also sees says
        `language_model.` before those that are for text, after that or before it.
        """
        short = name.removeprefix("model.")
        names = (name, short, f"model.language_model.{short}", f"language_model.{name}")
        return next((each for each in names if each in self._checkpoint), name)

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

    def check_parts(self, parts: Sequence[tuple[str, int]], width: int) -> None:
        """`check` the weights of stacked layers over `width` inputs."""
        for name, sizes in _stacked(parts):
            self.check(f"{name}.weight", (sum(sizes), width))

    def _count(self, tensor: torch.Tensor, nbytes: int | None = None) -> torch.Tensor:
        self._done += tensor.nbytes if nbytes is None else nbytes
        self._progress(self._done, self._total, self._what)
        return tensor


class _TorchReader(_Reader):
    """Tensors on the device in the compute dtype."""

    def __init__(
        self, checkpoint: Tensors, span: Span, device: torch.device, dtype: torch.dtype, progress: Progress
    ) -> None:
        super().__init__(checkpoint, span, progress)
        self._device = device
        self._dtype = dtype

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.read(name, shape).to(device=self._device, dtype=self._dtype)

    def norm(self, name: str, width: int, *, centred: bool) -> torch.Tensor:
        if not centred:
            return self.matrix(f"{name}.weight", (width,))
        return self.read(f"{name}.weight", (width,)).to(self._device, torch.float32) + 1.0

    def alike(self, parts: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
        return [list(parts)]

    def linear(self, parts: Sequence[tuple[str, int]], width: int, *, bias: bool, halves: bool = False) -> Linear:
        outputs = sum(size for _, size in parts)
        self.check_parts(parts, width)  # before a large allocation
        weight = torch.empty(outputs, width, device=self._device, dtype=self._dtype)
        offset = torch.empty(outputs, device=self._device, dtype=self._dtype) if bias else None
        row = 0
        for name, sizes in _stacked(parts):
            size = sum(sizes)
            weight[row : row + size] = self.read(f"{name}.weight", (size, width))
            if offset is not None:
                offset[row : row + size] = self.read(f"{name}.bias", (size,))
            row += size
        return Linear(weight, offset)


class _PackedReader(_Reader):
    """Linear layers in panels, everything else in float32."""

    def __init__(self, checkpoint: Tensors, span: Span, panel: int, dtype: torch.dtype, progress: Progress) -> None:
        super().__init__(checkpoint, span, progress)
        self._panel = panel
        self._memory = WeightMemory()
        self._dtype = dtype
        self.widened: set[str] = set()
        """Types of blocks for which there is no kernel."""

    def matrix(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.read(name, shape).float()

    def norm(self, name: str, width: int, *, centred: bool) -> torch.Tensor:
        weight = self.matrix(f"{name}.weight", (width,))
        return weight + 1.0 if centred else weight

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
        self.check_parts(parts, width)  # before a large allocation
        names, sizes = [f"{name}.weight" for name, _ in parts], [size for _, size in parts]
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
        part = 0
        for name, together in _stacked(parts):
            for rows in self._rows(f"{name}.weight", together, width, blocks=kernel is not None):
                if isinstance(packer, QuantisedPacker):
                    packer.weight(part, rows, self._type(f"{name}.weight"))
                else:
                    packer.weight(part, rows)
                part += 1
        if bias:
            biases = [self.read(f"{name}.bias", (sum(each),)) for name, each in _stacked(parts)]
            for part, values in enumerate(torch.cat(biases).split_with_sizes(sizes)):
                packer.bias(part, values)
        return packer.done()

    def _rows(self, name: str, sizes: list[int], width: int, *, blocks: bool) -> Sequence[torch.Tensor]:
        """A tensor's rows, cut into `sizes`; as they are stored where `blocks`."""
        if blocks:
            return self._count(self._checkpoint.read_blocks(self.stored(name))).split_with_sizes(sizes)
        return self.read(name, (sum(sizes), width)).split_with_sizes(sizes)

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
