"""The native path: Llama, Mistral, Qwen2 and Qwen3 blocks over packed tokens of many sessions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shards.checkpoint.opening import AnyCheckpoint
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.errors import BadActivation, CapacityExceeded
from shards.model.blocks import Blocks, Rows
from shards.model.native_blocks import NativeBlocks
from shards.model.native_config import NativeConfig, parse_native
from shards.model.precision import Precision
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import PAGE, LogitsMode, Piece
from shards.model.torch_blocks import TorchBlocks
from shards.model.weights import load_packed_span, load_span
from shards.native.library import native_library
from shards.progress import Progress, silent


class NativeStage:
    """A `StageModel` for Llama-like models: decoder blocks with RMSNorm, rotary attention and a gated MLP.

    It checks and packs what the sessions bring; its `Blocks` compute. Not safe for several threads: the engine's
    thread owns it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: NativeConfig,
        span: Span,
        blocks: Blocks,
        *,
        device: torch.device,
        dtype: torch.dtype,
        precision: Precision | None = None,
    ) -> None:
        self.spec = spec
        self.span = span
        self.device = device
        self.dtype = dtype
        weights = f"/{precision}" if precision is not None else ""
        self.numerics = f"{str(dtype).removeprefix('torch.')}/{device.type}/{blocks.kernels}{weights}"
        self.longest = spec.context_length
        self.shares_pages = True
        self.page_bytes = blocks.page_bytes
        self._config = config
        self._blocks = blocks

    def allocate(self, pages: int) -> None:
        """Make a new pool of so many pages. Raises `CapacityExceeded`."""
        self._blocks.allocate(pages)

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
        x, sizes = self._tokens(pieces) if span.start == 0 else self._hidden(pieces)
        for piece, size in zip(pieces, sizes, strict=True):
            if piece.start + size > len(piece.pages) * PAGE:
                raise CapacityExceeded(f"{piece.start} + {size} tokens exceed {len(piece.pages)} pages")
        starts, tables = [piece.start for piece in pieces], [piece.pages for piece in pieces]
        if span.end < self._config.n_blocks:
            return list(self._blocks.run(Rows(span, x, starts, sizes, tables, None)).split_with_sizes(sizes))
        wanted, counts = _wanted(pieces, sizes)
        return list(self._blocks.run(Rows(span, x, starts, sizes, tables, wanted)).split_with_sizes(counts))

    def _check(self, piece: Piece, span: Span) -> None:
        if piece.span != span or not self.span.covers(span):
            raise BadActivation(f"blocks {piece.span} in a micro-batch over {span} on a stage of {self.span}")
        if piece.start < 0:
            raise BadActivation(f"tokens from position {piece.start}")
        if (piece.tokens is None) == (piece.hidden is None):
            raise BadActivation("a piece needs either tokens or hidden states")

    def _tokens(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, list[int]]:
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
        return packed, sizes

    def _hidden(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, list[int]]:
        rows: list[torch.Tensor] = []
        for piece in pieces:
            hidden, width = piece.hidden, self._config.hidden_size
            if hidden is None or hidden.ndim != 2 or hidden.shape[1] != width or not hidden.is_floating_point():
                raise BadActivation(f"this stage takes hidden states [n, {width}]")
            rows.append(hidden)
        return torch.cat(rows), _sizes(rows)


def _wanted(pieces: Sequence[Piece], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """The rows whose logits are wanted, and how many of them are each piece's."""
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
    return wanted, counts


def _sizes(rows: Sequence[torch.Tensor]) -> list[int]:
    sizes = [row.shape[0] for row in rows]
    if not all(sizes):
        raise BadActivation("a piece has no tokens")
    return sizes


def load_native_stage(
    checkpoint: AnyCheckpoint,
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
    library = native_library() if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) else None
    blocks: Blocks
    if library is not None:
        packed = load_packed_span(checkpoint, config, span, panel=library.panel, dtype=dtype, progress=progress)
        blocks = NativeBlocks(library, config, span, packed, dtype=dtype)
    else:
        weights = load_span(checkpoint, config, span, device=device, dtype=dtype, progress=progress)
        blocks = TorchBlocks(config, span, weights, device=device, dtype=dtype)
    precision = checkpoint.precision if isinstance(checkpoint, QuantisedCheckpoint) else None
    return NativeStage(checkpoint.spec, config, span, blocks, device=device, dtype=dtype, precision=precision)
