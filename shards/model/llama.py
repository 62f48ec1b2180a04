"""The native path: Llama, Mistral, Qwen2 and Qwen3 blocks over packed tokens of many sessions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from shards.checkpoint.folder import Checkpoint
from shards.errors import BadActivation, CapacityExceeded
from shards.model.attention import View, attend, view_of
from shards.model.kv_cache import ContiguousCache
from shards.model.native_config import NativeConfig, parse_native
from shards.model.norm import rms_norm
from shards.model.rope import RotaryTable, rotate
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import LogitsMode, Piece
from shards.model.weights import BlockWeights, SpanWeights, load_span
from shards.progress import Progress, silent


class NativeStage:
    """A `StageModel` for Llama-like models: decoder blocks with RMSNorm, rotary attention and a gated MLP.

    The tokens of all pieces go through the linear layers together; attention runs piece by piece over
    each session's own cache. Not safe for several threads: the engine's thread owns it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: NativeConfig,
        span: Span,
        weights: SpanWeights,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec = spec
        self.span = span
        self.device = device
        self.dtype = dtype
        self._config = config
        self._weights = weights
        self._rope = RotaryTable(config.rope, config.head_dim, device, dtype)

    def new_cache(self, span: Span, capacity: int) -> ContiguousCache:
        """A cache for one session over `span`, reserved for `capacity` tokens. Raises `CapacityExceeded`."""
        if not self.span.covers(span):
            raise CapacityExceeded(f"this stage serves blocks {self.span}, not {span}")
        return ContiguousCache(
            span,
            capacity,
            n_kv_heads=self._config.n_kv_heads,
            head_dim=self._config.head_dim,
            device=self.device,
            dtype=self.dtype,
        )

    def kv_bytes_per_token(self, span: Span) -> int:
        return len(span) * 2 * self._config.n_kv_heads * self._config.head_dim * self.dtype.itemsize

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """One pass over a micro-batch (see `StageModel.forward`).

        Raises `BadActivation` when a piece does not fit its session or its input is malformed, and
        `CapacityExceeded` when it is longer than its cache; then no cache has grown. The results are
        inference tensors: change them in place only under `torch.inference_mode`.
        """
        if not pieces:
            return []
        span = pieces[0].cache.span
        caches = [self._check(piece, span) for piece in pieces]
        if len({id(cache) for cache in caches}) != len(caches):
            raise BadActivation("a session has two pieces in one micro-batch")
        x, sizes = self._embed(pieces) if span.start == 0 else self._gather(pieces)
        for piece, cache, size in zip(pieces, caches, sizes, strict=True):
            if piece.start + size > cache.capacity:
                raise CapacityExceeded(f"{piece.start} + {size} tokens exceed a cache of {cache.capacity}")
        starts = [piece.start for piece in pieces]
        positions = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)])
        longest = max(a + n for a, n in zip(starts, sizes, strict=True))
        angles = self._rope.at(positions.to(self.device), longest)
        windows = {self._config.windows[block] for block in span}
        views = {
            window: [view_of(a, n, window, self.device) for a, n in zip(starts, sizes, strict=True)]
            for window in windows
        }
        for block in span:
            weights = self._weights.blocks[block - self.span.start]
            x = self._block(x, block, weights, caches, views[self._config.windows[block]], angles)
        for cache, size in zip(caches, sizes, strict=True):
            cache.advance(size)
        if span.end < self._config.n_blocks:
            return list(x.split_with_sizes(sizes))
        return self._logits(x, pieces, sizes)

    def _check(self, piece: Piece, span: Span) -> ContiguousCache:
        cache = piece.cache
        if not isinstance(cache, ContiguousCache):
            raise BadActivation(f"the native path cannot use a {type(cache).__name__}")
        if cache.span != span or not self.span.covers(span):
            raise BadActivation(f"blocks {cache.span} in a micro-batch over {span} on a stage of {self.span}")
        if piece.start != cache.length:
            raise BadActivation(f"tokens from position {piece.start}, but the session holds {cache.length}")
        if (piece.tokens is None) == (piece.hidden is None):
            raise BadActivation("a piece needs either tokens or hidden states")
        return cache

    def _embed(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, list[int]]:
        tokens: list[torch.Tensor] = []
        for piece in pieces:
            if piece.tokens is None or piece.tokens.ndim != 1 or piece.tokens.dtype != torch.int64:
                raise BadActivation("the first stage takes a row of int64 token ids")
            tokens.append(piece.tokens)
        sizes = _sizes(tokens)
        packed = torch.cat(tokens)
        low, high = (int(value) for value in packed.aminmax())
        if low < 0 or high >= self._config.vocab_size:
            wrong = low if low < 0 else high
            raise BadActivation(f"token id {wrong} is not in a vocabulary of {self._config.vocab_size}")
        assert self._weights.embedding is not None  # spans from block 0 were loaded with it
        return F.embedding(packed.to(self.device), self._weights.embedding), sizes

    def _gather(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, list[int]]:
        rows: list[torch.Tensor] = []
        for piece in pieces:
            hidden, width = piece.hidden, self._config.hidden_size
            if hidden is None or hidden.ndim != 2 or hidden.shape[1] != width or not hidden.is_floating_point():
                raise BadActivation(f"this stage takes hidden states [n, {width}]")
            rows.append(hidden.to(device=self.device, dtype=self.dtype))
        return torch.cat(rows), _sizes(rows)

    def _block(
        self,
        x: torch.Tensor,
        block: int,
        weights: BlockWeights,
        caches: Sequence[ContiguousCache],
        views: Sequence[View],
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        config = self._config
        qkv = weights.qkv(self._norm(x, weights.attention_norm))
        heads = qkv.view(x.shape[0], config.n_heads + 2 * config.n_kv_heads, config.head_dim)
        turned, value = heads.tensor_split((config.n_heads + config.n_kv_heads,), dim=1)
        if weights.qk_norm is not None:
            turned = rms_norm(turned, weights.qk_norm, config.rms_eps)
        turned = rotate(turned, *angles)
        query, key = turned.tensor_split((config.n_heads,), dim=1)
        seen: list[torch.Tensor] = []
        row = 0
        for cache, view in zip(caches, views, strict=True):
            rows = slice(row, row + view.n)
            held = cache.append(block, view.end - view.n, key[rows], value[rows])
            seen.append(attend(query[rows], held, view))
            row += view.n
        x = x + weights.o(seen[0] if len(seen) == 1 else torch.cat(seen))
        gate, up = weights.gate_up(self._norm(x, weights.mlp_norm)).chunk(2, dim=-1)
        return x + weights.down(F.silu(gate) * up)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, self._config.rms_eps)

    def _logits(self, x: torch.Tensor, pieces: Sequence[Piece], sizes: list[int]) -> list[torch.Tensor]:
        wanted: list[int] = []
        counts: list[int] = []
        row = 0
        for piece, size in zip(pieces, sizes, strict=True):
            match piece.want:
                case LogitsMode.NOTHING:
                    rows = range(0)
                case LogitsMode.LAST:
                    rows = range(row + size - 1, row + size)
                case LogitsMode.ALL:
                    rows = range(row, row + size)
            wanted.extend(rows)
            counts.append(len(rows))
            row += size
        if not wanted:
            empty = torch.empty(0, self._config.vocab_size, device=self.device)
            return [empty for _ in pieces]
        assert self._weights.head is not None and self._weights.final_norm is not None  # as for the embedding
        chosen = x if len(wanted) == x.shape[0] else x[torch.tensor(wanted, device=self.device)]
        logits = self._weights.head(self._norm(chosen, self._weights.final_norm)).float()
        return list(logits.split_with_sizes(counts))


def _sizes(rows: Sequence[torch.Tensor]) -> list[int]:
    sizes = [row.shape[0] for row in rows]
    if not all(sizes):
        raise BadActivation("a piece has no tokens")
    return sizes


def load_native_stage(
    checkpoint: Checkpoint,
    span: Span,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = silent,
) -> NativeStage:
    """Load `span` of a Llama-like checkpoint, reading only its tensors.

    Raises `UnsupportedModel` when the native path does not know the model, `CheckpointError` when a tensor is
    missing or does not fit.
    """
    config = parse_native(checkpoint.spec)
    checkpoint.check(span)
    weights = load_span(checkpoint, config, span, device=device, dtype=dtype, progress=progress)
    return NativeStage(checkpoint.spec, config, span, weights, device=device, dtype=dtype)
