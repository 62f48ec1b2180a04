"""What goes into the engine and what comes out: one session's turn and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from shards.engine.sampler import Choice, Score, Tail
from shards.errors import ShardError
from shards.model.stage import KVCache


@dataclass(slots=True, eq=False)
class Work:
    """`count` consecutive tokens of one session from position `start`.

    One of `tokens` (int64 [count]) and `hidden` ([count, hidden_size], any float dtype, on the CPU) is given.
    `tail` is there at the model's last block. `wire_dtype` is the dtype in which hidden states leave. Setting
    `cancelled` (from any thread) makes the engine drop the work if it has not begun.
    """

    session: bytes
    cache: KVCache
    start: int
    count: int
    tokens: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    tail: Tail | None = None
    wire_dtype: torch.dtype = torch.float32
    cancelled: bool = False
    passed_over: int = 0
    """Passes that went without it while it was its session's next turn (counted by the engine)."""

    @property
    def is_decode(self) -> bool:
        """A single token: what goes before prompts, so that running sessions keep their pace."""
        return self.count == 1


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of a `Work`: hidden states for the next hop, or the last stage's choice, or an error.

    `seconds` is the work's share, by tokens, of the pass it was part of.
    """

    work: Work
    seconds: float = 0.0
    hidden: torch.Tensor | None = None
    choice: Choice | None = None
    scores: tuple[Score, ...] = field(default=())
    error: ShardError | None = None
