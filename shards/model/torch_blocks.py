"""The native path's blocks as plain torch operations: on a GPU, and on a CPU where there are no native kernels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shards.model.attention import AttentionWindow, DecodeRows, attend, attend_decode, group_decodes, window_of
from shards.model.blocks import Rows, embedding_scale
from shards.model.experts import ExpertWeights, mix
from shards.model.linear import Linear
from shards.model.native_config import NativeConfig
from shards.model.norm import rms_norm
from shards.model.pages import PagePool, Slots
from shards.model.rope import RotaryTable, rotate
from shards.model.span import Span
from shards.model.stage import PAGE
from shards.model.weights import DenseWeights, SpanWeights


@dataclass(frozen=True, slots=True)
class Sight:
    """What the tokens of a pass see in blocks of one window: prompts by first row and page table, and what decodes."""

    prompts: Sequence[tuple[int, torch.Tensor, AttentionWindow]]
    decodes: Sequence[DecodeRows]


class TorchBlocks:
    """`Blocks` in one dtype for weights, activations and cache.

    The tokens of all sessions go through the linear layers together. Attention of those that decode is one call for
    all of like length; that of prompts runs session by session.
    """

    def __init__(
        self,
        config: NativeConfig,
        span: Span,
        weights: SpanWeights[Linear],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.kernels = "torch"
        self.page_bytes = PAGE * len(span) * 2 * config.n_kv_heads * config.head_dim * dtype.itemsize
        self._config = config
        self._span = span
        self._weights = weights
        self._device = device
        self._dtype = dtype
        ropes = {config.rope_of(block) for block in span}
        self._ropes = {rope: RotaryTable(rope, config.head_dim, device, dtype) for rope in ropes}
        self._embedding_scale = embedding_scale(config, dtype)
        self.allocate(0)

    def allocate(self, pages: int) -> None:
        config = self._config
        self._pool = PagePool(
            len(self._span),
            pages,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            device=self._device,
            dtype=self._dtype,
        )

    def run(self, rows: Rows) -> torch.Tensor:
        starts, sizes = rows.starts, rows.sizes
        x = self._embed(rows.x) if rows.span.start == 0 else rows.x.to(device=self._device, dtype=self._dtype)
        positions = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)])
        longest = max(a + n for a, n in zip(starts, sizes, strict=True))
        positions = positions.to(self._device)
        angles = {rope: table.at(positions, longest) for rope, table in self._ropes.items()}
        tables = [torch.tensor(pages, dtype=torch.int64, device=self._device) for pages in rows.pages]
        slots = self._pool.slots(tables, starts, sizes)
        sights = {width: self._sight(rows, tables, width) for width in {self._config.windows[b] for b in rows.span}}
        for block in rows.span:
            sight = sights[self._config.windows[block]]
            x = self._block(x, block, slots, sight, angles[self._config.rope_of(block)])
        return x if rows.wanted is None else self._logits(x, rows.wanted)

    def _sight(self, rows: Rows, tables: Sequence[torch.Tensor], width: int | None) -> Sight:
        firsts = [0, *itertools.accumulate(rows.sizes)]
        ones = [index for index, size in enumerate(rows.sizes) if size == 1]
        prompts = [
            (firsts[index], tables[index], window_of(rows.starts[index], size, width, self._device))
            for index, size in enumerate(rows.sizes)
            if size > 1
        ]
        decodes = group_decodes(
            [firsts[index] for index in ones],
            [rows.starts[index] for index in ones],
            [rows.pages[index] for index in ones],
            width,
            self._device,
        )
        return Sight(prompts, decodes)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        assert self._weights.embedding is not None  # spans from block 0 were loaded with it
        x = F.embedding(tokens.to(self._device), self._weights.embedding)
        return x if self._embedding_scale == 1 else x * self._embedding_scale

    def _block(
        self,
        x: torch.Tensor,
        block: int,
        slots: Slots,
        sight: Sight,
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        own = block - self._span.start
        weights = self._weights.blocks[own]
        config = self._config
        scale, cap = config.attention_scale, config.score_cap
        (fused,) = weights.qkv
        qkv = fused(self._norm(x, weights.attention_norm))
        heads = qkv.view(x.shape[0], config.n_heads + 2 * config.n_kv_heads, config.head_dim)
        turned, value = heads.tensor_split((config.n_heads + config.n_kv_heads,), dim=1)
        if weights.qk_norm is not None:
            turned = rms_norm(turned, weights.qk_norm, config.rms_eps)
        turned = rotate(turned, *angles)
        query, key = turned.tensor_split((config.n_heads,), dim=1)
        self._pool.write(own, slots, key, value)
        seen = torch.empty_like(query).flatten(1)
        for row, table, window in sight.prompts:
            keys, values = self._pool.read(own, table, window.first, window.end)
            own_query = query[row : row + window.n]
            seen[row : row + window.n] = attend(own_query, keys, values, window, weights.sinks, scale=scale, cap=cap)
        for decode in sight.decodes:
            keys, values = self._pool.read_many(own, decode.tables, decode.mask)
            seen[decode.rows] = attend_decode(
                query[decode.rows], keys, values, decode.mask, weights.sinks, scale=scale, cap=cap
            )
        x = x + self._branch(weights.o(seen), weights.attention_out_norm)
        return x + self._branch(self._mlp(self._norm(x, weights.mlp_norm), weights.mlp), weights.mlp_out_norm)

    def _branch(self, x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        return x if norm is None else self._norm(x, norm)

    def _mlp(self, x: torch.Tensor, weights: DenseWeights[Linear] | ExpertWeights[Linear]) -> torch.Tensor:
        if isinstance(weights, ExpertWeights):
            assert self._config.experts is not None  # they were loaded as it says
            return mix(x, weights, self._config.experts)
        gate, up = weights.gate_up(x).chunk(2, dim=-1)
        return weights.down(self._activated(gate) * up)

    def _activated(self, gate: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) if self._config.activation == "silu" else F.gelu(gate, approximate="tanh")

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, self._config.rms_eps)

    def _logits(self, x: torch.Tensor, wanted: Sequence[int]) -> torch.Tensor:
        if not wanted:
            return torch.empty(0, self._config.vocab_size, device=self._device)
        assert self._weights.head is not None and self._weights.final_norm is not None  # as for the embedding
        chosen = x if len(wanted) == x.shape[0] else x[torch.tensor(wanted, device=self._device)]
        logits = self._weights.head(self._norm(chosen, self._weights.final_norm)).float()
        cap = self._config.logit_cap
        return logits if cap is None else (logits / cap).tanh_().mul_(cap)
