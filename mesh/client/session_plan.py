"""What all hops of a session are told (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from shards.engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What all hops are told: ids already known (`fed`, of which `prompt_tokens` are the prompt) and the bounds."""

    digest: str
    wire_dtype: str
    vocab_size: int
    fed: tuple[int, ...]
    prompt_tokens: int
    capacity: int
    eos: tuple[int, ...]
    sampling: SamplingParams
    prompt_scores: bool
    window: int | None = None
    """Tokens that may be computed ahead of who reads them; None: all."""

    def limit_at(self, position: int) -> int:
        """How far the ring may run when everything below `position` is known to the reader."""
        return self.capacity if self.window is None else min(self.capacity, position + self.window)

    def finish_of(self, token: int, position: int) -> str | None:
        """What the last hop must say when it chooses `token` for `position`."""
        if token in self.eos:
            return "stop"
        return "length" if position + 1 >= self.capacity else None
