"""The native path's blocks as plain torch operations: on a GPU, and on a CPU where there are no native kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from shards.model.attention import AttentionWindow, attend, window_of
from shards.model.blocks import Rows
from shards.model.linear import Linear
from shards.model.native_config import NativeConfig
from shards.model.norm import rms_norm
from shards.model.pages import PagePool, Slots
from shards.model.rope import RotaryTable, rotate
from shards.model.span import Span
from shards.model.stage import PAGE
from shards.model.weights import SpanWeights


class TorchBlocks:
    """`Blocks` in one dtype for weights, activations and cache.

    The tokens of all sessions go through the linear layers together; attention runs session by session.
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
        self._rope = RotaryTable(config.rope, config.head_dim, device, dtype)
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
        angles = self._rope.at(positions.to(self._device), longest)
        tables = [torch.tensor(pages, dtype=torch.int64, device=self._device) for pages in rows.pages]
        slots = self._pool.slots(tables, starts, sizes)
        windows = {
            width: [window_of(a, n, width, self._device) for a, n in zip(starts, sizes, strict=True)]
            for width in {self._config.windows[block] for block in rows.span}
        }
        for block in rows.span:
            x = self._block(x, block, tables, slots, windows[self._config.windows[block]], angles)
        return x if rows.wanted is None else self._logits(x, rows.wanted)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        assert self._weights.embedding is not None  # spans from block 0 were loaded with it
        return F.embedding(tokens.to(self._device), self._weights.embedding)

    def _block(
        self,
        x: torch.Tensor,
        block: int,
        tables: Sequence[torch.Tensor],
        slots: Slots,
        windows: Sequence[AttentionWindow],
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        own = block - self._span.start
        weights = self._weights.blocks[own]
        config = self._config
        qkv = weights.qkv(self._norm(x, weights.attention_norm))
        heads = qkv.view(x.shape[0], config.n_heads + 2 * config.n_kv_heads, config.head_dim)
        turned, value = heads.tensor_split((config.n_heads + config.n_kv_heads,), dim=1)
        if weights.qk_norm is not None:
            turned = rms_norm(turned, weights.qk_norm, config.rms_eps)
        turned = rotate(turned, *angles)
        query, key = turned.tensor_split((config.n_heads,), dim=1)
        self._pool.write(own, slots, key, value)
        seen: list[torch.Tensor] = []
        row = 0
        for table, window in zip(tables, windows, strict=True):
            keys, values = self._pool.read(own, table, window.first, window.end)
            seen.append(attend(query[row : row + window.n], keys, values, window))
            row += window.n
        x = x + weights.o(seen[0] if len(seen) == 1 else torch.cat(seen))
        gate, up = weights.gate_up(self._norm(x, weights.mlp_norm)).chunk(2, dim=-1)
        return x + weights.down(F.silu(gate) * up)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, self._config.rms_eps)

    def _logits(self, x: torch.Tensor, wanted: Sequence[int]) -> torch.Tensor:
        if not wanted:
            return torch.empty(0, self._config.vocab_size, device=self._device)
        assert self._weights.head is not None and self._weights.final_norm is not None  # as for the embedding
        chosen = x if len(wanted) == x.shape[0] else x[torch.tensor(wanted, device=self._device)]
        return self._weights.head(self._norm(chosen, self._weights.final_norm)).float()
