"""A session as the engine knows it: its place in memory, its queued work, its sampler."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from shards.engine.sampler import SamplerState
from shards.model.span import Span

if TYPE_CHECKING:
    from shards.engine.step import StepInput


@dataclass(slots=True, eq=False)
class SequenceState:
    """Made by `EngineCore.add`, which numbers sessions in the order in which they come.

    `pages` is its page table, of which the first `shared` are perhaps held by others too. `length` tokens have been
    run. `client` is who is behind it: passes and memory are shared fairly between clients. `sampler` is there at the
    model's last block. Hidden states leave in `wire_dtype`. `keys` are those under which its first full pages can be
    found again.
    """

    number: int
    session: bytes
    client: str
    span: Span
    capacity: int
    sampler: SamplerState | None = None
    wire_dtype: torch.dtype = torch.float32
    keys: Sequence[bytes] = ()
    pages: list[int] = field(default_factory=list)
    length: int = 0
    published: int = 0
    """Of its pages, the first that were found under their key or may be found now."""
    queue: deque[StepInput] = field(default_factory=deque)
    freed: bool = False
    losses: int = 0
    """How often its pages were taken away: what a pass computed before that is not booked."""
