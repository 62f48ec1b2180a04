"""A span's weights read from a checkpoint into the native path's fused layout."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from shards.checkpoint.opening import AnyCheckpoint, Tensors
from shards.errors import CheckpointError
from shards.model.expert_tensors import ExpertTensors
from shards.model.experts import ExpertWeights
from shards.model.linear import Linear
from shards.model.native_config import NativeConfig
from shards.model.packing import PackedLinear
from shards.model.readers import LayerReader, PackedReader, TorchReader, variants
from shards.model.span import Span
from shards.progress import Progress

L = TypeVar("L")
_EMBEDDING = "model.embed_tokens"
_HEAD = "lm_head"
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
    reader = TorchReader(_tensors(checkpoint, config), span, device, dtype, progress)
    vocabulary = (config.vocab_size, config.hidden_size)
    first, last = span.start == 0, span.end == config.n_blocks
    table = reader.matrix(f"{_EMBEDDING}.weight", vocabulary) if first else None
    blocks = [_load_block(reader, config, block) for block in span]
    final_norm, head = None, None
    if last:
        final_norm = reader.norm("model.norm", config.hidden_size, centred=config.centred_norms)
        name = head_of(checkpoint, config)
        if name != _EMBEDDING or table is None:
            head = Linear(reader.matrix(f"{name}.weight", vocabulary))
        else:
            head = Linear(table, pack=False)  # rows are also looked up in it, so it stays as it is
    reader.tell_widened("torch has no kernel for %s")
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
    reader = PackedReader(_tensors(checkpoint, config), span, panel, dtype, progress)
    vocabulary = (config.vocab_size, config.hidden_size)
    first, last = span.start == 0, span.end == config.n_blocks
    name = head_of(checkpoint, config) if last else None
    table = reader.table(_EMBEDDING, vocabulary) if first and name != _EMBEDDING else None
    embedding, quantised = (None, table) if isinstance(table, PackedLinear) else (table, None)
    blocks = [_load_block(reader, config, block) for block in span]
    final_norm, head = None, None
    if name is not None:
        final_norm = reader.norm("model.norm", config.hidden_size, centred=config.centred_norms)
        head = reader.linear([(name, config.vocab_size)], config.hidden_size, bias=False)
    reader.tell_widened("no kernel for %s in one layer")
    return SpanWeights(blocks, embedding, final_norm, head, quantised)


def _tensors(checkpoint: AnyCheckpoint, config: NativeConfig) -> Tensors:
    return checkpoint if config.experts is None else ExpertTensors(checkpoint, config.experts.count)


def head_of(names: Container[str], config: NativeConfig) -> str:
    """The layer that is the head, in a checkpoint of such tensors: its own where it has one, as transformers takes it.

    Raises `CheckpointError` where it has none.
    """
    if any(each in names for each in variants(f"{_HEAD}.weight")):
        return _HEAD
    if config.tied:
        return _EMBEDDING
    raise CheckpointError(
        f"there is no tensor {_HEAD}.weight, and config.json does not say that the embedding is the head: if it is, "
        "set tie_word_embeddings to true there, else take a copy of the model that was saved with its head"
    )


def _load_block(reader: LayerReader[L], config: NativeConfig, block: int) -> BlockWeights[L]:
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


def _load_mlp(
    reader: LayerReader[L], config: NativeConfig, block: int, prefix: str
) -> DenseWeights[L] | ExpertWeights[L]:
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
