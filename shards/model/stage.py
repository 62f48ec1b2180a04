"""The port between a stage's engine and the code that computes: what a model implementation must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch

from shards.model.paging import PAGE as PAGE
from shards.model.span import Span
from shards.model.spec import ModelSpec


class LogitsMode(Enum):
    """Which positions of a piece the last stage turns into logits."""

    NOTHING = 0
    LAST = 1
    ALL = 2


@dataclass(slots=True)
class Piece:
    """What one session contributes to a micro-batch: `n` consecutive tokens from position `start`.

    `sequence` is the engine's number of the session. `pages` is its page table: page `pages[i]` holds positions
    `PAGE * i, …`; it covers everything up to `start + n`. Exactly one of `tokens` (int64 [n], where `span` starts
    at block 0) and `hidden` (a float dtype, [n, hidden_size], elsewhere) is given. All positions before `start` have
    been fed.
    """

    sequence: int
    span: Span
    pages: Sequence[int]
    start: int
    tokens: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    want: LogitsMode = LogitsMode.NOTHING


class StageModel(Protocol):
    """A span's weights, live on a device, and the memory of the sessions that run over it.

    Which page belongs to which session is the engine's business; the model reads and writes where it is told.
    """

    spec: ModelSpec
    span: Span
    device: torch.device
    dtype: torch.dtype
    numerics: str
    """How numbers are computed: dtype, kind of device, kernels. Stages that say the same compute the same bits."""
    longest: int
    """Most tokens that a session can have."""
    page_bytes: int
    """Bytes of one page over the whole span; a session over a part of it takes whole pages too."""
    shares_pages: bool
    """True when a page that is full may stand in the tables of several sessions."""

    def allocate(self, pages: int) -> None:
        """Make room for pages numbered 0 to `pages - 1`; what they held is gone. Raises `CapacityExceeded`."""

    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """One pass over a micro-batch of different sessions that all run over the same span.

        Returns, per piece: where the span ends before the model's last block, hidden states
        [n, hidden_size]; else float32 logits [0 | 1 | n, vocab_size] as the piece's `want` says.
        Runs without gradients.
        """

    def cut(self, sequence: int, length: int) -> None:
        """Forget the session's tokens from position `length` on."""

    def forget(self, sequence: int) -> None:
        """The session has ended, or its pages were taken away: nothing of it is held any more."""
