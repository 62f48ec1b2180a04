"""The native path: Llama, Mistral, Qwen2 and Qwen3 blocks over packed tokens of many sessions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from shards.checkpoint.folder import Checkpoint
from shards.errors import BadActivation, CapacityExceeded
from shards.model.attention import AttentionWindow, attend, window_of
from shards.model.native_config import NativeConfig, parse_native
from shards.model.norm import rms_norm
from shards.model.pages import PagePool, Slots
from shards.model.rope import RotaryTable, rotate
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import PAGE, LogitsMode, Piece
from shards.model.weights import SpanWeights, load_span
from shards.progress import Progress, silent


class NativeStage:
    """A `StageModel` for Llama-like models: decoder blocks with RMSNorm, rotary attention and a gated MLP.

    The tokens of all pieces go through the linear layers together; attention runs piece by piece over
    each session's pages. Not safe for several threads: the engine's thread owns it.
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
        self.longest = spec.context_length
        self.page_bytes = PAGE * len(span) * 2 * config.n_kv_heads * config.head_dim * dtype.itemsize
        self.shares_pages = True
        self._pool = self._new_pool(0)

    def allocate(self, pages: int) -> None:
        """Make a new pool of so many pages. Raises `CapacityExceeded`."""
        self._pool = self._new_pool(pages)

    def cut(self, sequence: int, length: int) -> None:
        """Nothing to do: what is fed again is written over."""

    def forget(self, sequence: int) -> None:
        """Nothing to do: all that a session has is in its pages."""

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """One pass over a micro-batch (see `StageModel.forward`).

        Raises `BadActivation` when a piece's input is malformed, and `CapacityExceeded` when it is longer than its
        pages; then no page has been written. The results are inference tensors: change them in place only under
        `torch.inference_mode`.
        """
        if not pieces:
            return []
        span = pieces[0].span
        for piece in pieces:
            self._check(piece, span)
        if len({piece.sequence for piece in pieces}) != len(pieces):
            raise BadActivation("a session has two pieces in one micro-batch")
        x, sizes = self._embed(pieces) if span.start == 0 else self._gather(pieces)
        for piece, size in zip(pieces, sizes, strict=True):
            if piece.start + size > len(piece.pages) * PAGE:
                raise CapacityExceeded(f"{piece.start} + {size} tokens exceed {len(piece.pages)} pages")
        starts = [piece.start for piece in pieces]
        positions = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)])
        longest = max(a + n for a, n in zip(starts, sizes, strict=True))
        angles = self._rope.at(positions.to(self.device), longest)
        tables = [torch.tensor(piece.pages, dtype=torch.int64, device=self.device) for piece in pieces]
        slots = self._pool.slots(tables, starts, sizes)
        windows = {
            width: [window_of(a, n, width, self.device) for a, n in zip(starts, sizes, strict=True)]
            for width in {self._config.windows[block] for block in span}
        }
        for block in span:
            x = self._block(x, block, tables, slots, windows[self._config.windows[block]], angles)
        if span.end < self._config.n_blocks:
            return list(x.split_with_sizes(sizes))
        return self._logits(x, pieces, sizes)

    def _new_pool(self, pages: int) -> PagePool:
        config = self._config
        return PagePool(
            len(self.span),
            pages,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            device=self.device,
            dtype=self.dtype,
        )

    def _check(self, piece: Piece, span: Span) -> None:
        if piece.span != span or not self.span.covers(span):
            raise BadActivation(f"blocks {piece.span} in a micro-batch over {span} on a stage of {self.span}")
        if piece.start < 0:
            raise BadActivation(f"tokens from position {piece.start}")
        if (piece.tokens is None) == (piece.hidden is None):
            raise BadActivation("a piece needs either tokens or hidden states")

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
        tables: Sequence[torch.Tensor],
        slots: Slots,
        windows: Sequence[AttentionWindow],
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        own = block - self.span.start
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
