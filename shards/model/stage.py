"""The port between a stage's engine and the code that computes: what a model implementation must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch

from shards.model.span import Span
from shards.model.spec import ModelSpec


class LogitsMode(Enum):
    """Which positions of a piece the last stage turns into logits."""

    NOTHING = 0
    LAST = 1
    ALL = 2


class KVCache(Protocol):
    """One session's keys and values on one stage, for `span` (a sub-span of the stage's)."""

    span: Span
    capacity: int
    """Most tokens it can hold; reserved when the session is admitted."""

    @property
    def length(self) -> int:
        """Tokens held now."""

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on (rejected or replayed tokens)."""


@dataclass(slots=True)
class Piece:
    """What one session contributes to a micro-batch: `n` consecutive tokens from position `start`.

    Exactly one of `tokens` (int64 [n], where the cache's span starts at block 0) and `hidden`
    (compute dtype [n, hidden_size], elsewhere) is given. `start` equals the cache's length.
    """

    cache: KVCache
    start: int
    tokens: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    want: LogitsMode = LogitsMode.NOTHING


class StageModel(Protocol):
    """A span's weights, live on a device."""

    spec: ModelSpec
    span: Span
    device: torch.device
    dtype: torch.dtype

    def new_cache(self, span: Span, capacity: int) -> KVCache:
        """A cache for one session over `span`, a sub-span of this stage's, for up to `capacity` tokens."""

    def kv_bytes_per_token(self, span: Span) -> int:
        """Bytes of cache one token of one session needs over `span`."""

    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """One pass over a micro-batch whose caches all have the same span.

        Returns, per piece: where the span ends before the model's last block, hidden states
        [n, hidden_size]; else float32 logits [0 | 1 | n, vocab_size] as the piece's `want` says.
        Appends to every cache. Runs without gradients.
        """
