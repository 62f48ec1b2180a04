"""What runs a stage's blocks: the torch path on any device, the native kernels on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from shards.model.native_config import NativeConfig
from shards.model.span import Span


@dataclass(frozen=True, slots=True)
class Rows:
    """The tokens of one pass, one session's after another's; checked already.

    `x` is int64 token ids [n], or hidden states [n, hidden_size]. Session i has `sizes[i]` of the rows, from position
    `starts[i]`, and the page table `pages[i]`. `wanted` are the rows whose logits are asked for, or None where the
    hidden states are.
    """

    span: Span
    x: torch.Tensor
    starts: Sequence[int]
    sizes: Sequence[int]
    pages: Sequence[Sequence[int]]
    wanted: Sequence[int] | None


class Blocks(Protocol):
    """A span's weights and its pages."""

    kernels: str
    """What computes, in a word."""
    page_bytes: int
    """Bytes of a page over the whole span."""

    def allocate(self, pages: int) -> None:
        """A new pool of so many pages. Raises `CapacityExceeded`."""

    def run(self, rows: Rows) -> torch.Tensor:
        """Hidden states [n, hidden_size], or float32 logits [len(wanted), vocab_size]."""


def embedding_scale(config: NativeConfig, dtype: torch.dtype) -> float:
    """What embeddings are multiplied by: rounded to the compute dtype, as Gemma was trained and transformers does."""
    return float(torch.tensor(config.embedding_scale, dtype=dtype))
