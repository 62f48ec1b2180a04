"""The native path's blocks on the native kernels: one call runs all blocks of a stage for all rows of a pass."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable, Sequence
from ctypes import c_void_p

import torch

from shards.model.blocks import Rows, embedding_scale
from shards.model.experts_config import ExpertsConfig
from shards.model.native_config import ACTIVATIONS, NativeConfig
from shards.model.packing import PackedLinear
from shards.model.pages import PagePool
from shards.model.rope import RotaryTable
from shards.model.span import Span
from shards.model.stage import PAGE
from shards.model.weights import DenseWeights, SpanWeights
from shards.native.library import (
    BFLOAT16,
    FLOAT32,
    MAX_ROPES,
    Batch,
    BlockDesc,
    ExpertsDesc,
    Library,
    Matrix,
    StageDesc,
)

_NO_MATRIX = Matrix(panels=None, bias=None, inputs=0, outputs=0, type=FLOAT32)


class NativeBlocks:
    """`Blocks` on a CPU. Weights are float32 or bfloat16, hidden states float32, keys and values `dtype`.

    A row's results are bit for bit the same whatever rows share its pass and however a prompt is cut.
    """

    def __init__(
        self,
        library: Library,
        config: NativeConfig,
        span: Span,
        weights: SpanWeights[PackedLinear],
        *,
        dtype: torch.dtype,
    ) -> None:
        self.page_bytes = PAGE * len(span) * 2 * config.n_kv_heads * config.head_dim * dtype.itemsize
        # Inputs that are rounded for the matrix unit give other bits. Quantised weights are not multiplied there.
        linears = [each for block in weights.blocks for each in block.linears()]
        is_plain = all(each.type in (FLOAT32, BFLOAT16) for each in (*linears, weights.table, weights.head) if each)
        self._rounds_inputs = dtype == torch.bfloat16 and library.has_tiles and is_plain
        self.kernels = "native-tiles" if self._rounds_inputs else "native"
        self._library = library
        self._config = config
        self._span = span
        self._weights = weights
        self._dtype = dtype
        cpu = torch.device("cpu")
        ropes = dict.fromkeys(config.rope_of(block) for block in span)
        self._ropes = {rope: RotaryTable(rope, config.head_dim, cpu, torch.float32) for rope in ropes}
        self._arrays: list[ctypes.Array[Matrix]] = []
        self._release: Callable[[], object] | None = None
        self.allocate(0)

    def allocate(self, pages: int) -> None:
        config = self._config
        self._pool = PagePool(
            len(self._span),
            pages,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            device=torch.device("cpu"),
            dtype=self._dtype,
        )
        if self._release is not None:
            self._release()
        self._stage = self._library.new_stage(self._describe())
        self._release = weakref.finalize(self, self._library.delete_stage, self._stage)

    def run(self, rows: Rows) -> torch.Tensor:
        count = sum(rows.sizes)
        config = self._config
        longest = max(start + size for start, size in zip(rows.starts, rows.sizes, strict=True))
        angles = [table.halves(longest) for table in self._ropes.values()]
        tokens = rows.x.contiguous() if rows.span.start == 0 else None
        hidden = torch.empty(count, config.hidden_size) if tokens is not None else rows.x.float().contiguous()
        if tokens is None and hidden.data_ptr() == rows.x.data_ptr():
            hidden = hidden.clone()  # the pass writes over it
        wanted = _int64(rows.wanted or ())
        logits = torch.empty(len(wanted), config.vocab_size)
        sizes, starts = _int64(rows.sizes), _int64(rows.starts)
        tables = torch.tensor(list(itertools.chain.from_iterable(rows.pages)), dtype=torch.int32)
        table_start = _int64([0, *itertools.accumulate(len(pages) for pages in rows.pages)])
        batch = Batch(
            threads=torch.get_num_threads(),
            rows=count,
            pieces=len(rows.sizes),
            first_block=rows.span.start - self._span.start,
            last_block=rows.span.end - self._span.start,
            tokens=None if tokens is None else tokens.data_ptr(),
            x=hidden.data_ptr(),
            piece_rows=sizes.data_ptr(),
            piece_start=starts.data_ptr(),
            tables=tables.data_ptr(),
            table_start=table_start.data_ptr(),
            cosines=(c_void_p * MAX_ROPES)(*(cosines.data_ptr() for cosines, _ in angles)),
            sines=(c_void_p * MAX_ROPES)(*(sines.data_ptr() for _, sines in angles)),
            wanted=len(wanted),
            wanted_rows=wanted.data_ptr(),
            logits=logits.data_ptr(),
        )
        self._library.forward(self._stage, batch)
        return hidden if rows.wanted is None else logits

    def _describe(self) -> StageDesc:
        """The C structure; it points into tensors that this object keeps."""
        config, weights = self._config, self._weights
        self._arrays.clear()
        blocks = (BlockDesc * len(self._span))()
        ropes = list(self._ropes)
        for index, (number, block) in enumerate(zip(self._span, weights.blocks, strict=True)):
            norms = block.qk_norm
            blocks[index] = BlockDesc(
                attention_norm=block.attention_norm.data_ptr(),
                query_norm=_address(norms),
                key_norm=None if norms is None else norms[config.n_heads].data_ptr(),
                attention_out_norm=_address(block.attention_out_norm),
                mlp_norm=block.mlp_norm.data_ptr(),
                mlp_out_norm=_address(block.mlp_out_norm),
                qkv=(Matrix * 3)(*(each.matrix() for each in block.qkv)),
                qkv_parts=len(block.qkv),
                o=block.o.matrix(),
                keys=self._pool.keys[index].data_ptr(),
                values=self._pool.values[index].data_ptr(),
                window=config.windows[number] or 0,
                rope=ropes.index(config.rope_of(number)),
                sinks=_address(block.sinks),
            )
            if isinstance(block.mlp, DenseWeights):
                blocks[index].gate_up, blocks[index].down = block.mlp.gate_up.matrix(), block.mlp.down.matrix()
            else:
                blocks[index].router = block.mlp.router.matrix()
                blocks[index].expert_gate_up = self._array(block.mlp.gate_up)
                blocks[index].expert_down = self._array(block.mlp.down)
        embedding = weights.embedding
        return StageDesc(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.n_heads,
            kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            blocks=len(self._span),
            cache_type=_type(self._dtype),
            rounds_inputs=self._rounds_inputs,
            rotary_dim=config.rope.rotary_dim or config.head_dim,
            activation=ACTIVATIONS.index(config.activation),
            eps=config.rms_eps,
            attention_scale=config.attention_scale,
            score_cap=config.score_cap or 0.0,
            logit_cap=config.logit_cap or 0.0,
            embedding_scale=embedding_scale(config, self._dtype),
            block=blocks,
            final_norm=_address(weights.final_norm),
            head=_matrix(weights.head),
            embedding=_address(embedding),
            embedding_type=FLOAT32 if embedding is None else _type(embedding.dtype),
            table=_matrix(weights.table or weights.head),
            experts=_experts(config.experts),
        )

    def _array(self, linears: Sequence[PackedLinear]) -> ctypes.Array[Matrix]:
        """The C structures, kept as long as this object."""
        self._arrays.append((Matrix * len(linears))(*(each.matrix() for each in linears)))
        return self._arrays[-1]


def _experts(config: ExpertsConfig | None) -> ExpertsDesc:
    if config is None:
        return ExpertsDesc()
    return ExpertsDesc(
        count=config.count,
        chosen=config.chosen,
        inner=config.inner,
        normalises=config.normalised,
        slope=1.0 if config.gate is None else config.gate.slope,
        limit=0.0 if config.gate is None else config.gate.limit,
    )


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _matrix(linear: PackedLinear | None) -> Matrix:
    return _NO_MATRIX if linear is None else linear.matrix()


def _type(dtype: torch.dtype) -> int:
    return BFLOAT16 if dtype == torch.bfloat16 else FLOAT32


def _int64(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
