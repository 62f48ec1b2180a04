"""What all hops of a session are told (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.client.affinity import page_keys
from shards.engine.blocks import chain_root
from shards.engine.sampling_params import SamplingParams
from shards.grammar.constraint import Constraint, ConstraintKind


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
    drafts: int = 0
    """Guesses at the next tokens that one trip round the ring may check."""
    constraint: Constraint | None = None
    answer_from: int = 0
    """Of what is fed, where the answer begins that is held to it."""
    secret: bytes = b""
    caller: str = ""
    """Only sessions with the same secret and caller name the same pages by the same keys."""

    def keys_after(self, *upstream: str, answer: Sequence[int] = ()) -> bytes:
        """Names of the full pages of what is fed and answered, for a hop behind these: what it computes depends on all
        of them.

        Hops cannot tell from them who calls, nor guess what is said.
        """
        if self.prompt_scores:
            return b""
        return b"".join(page_keys(chain_root(self.secret.hex(), self.caller, *upstream), (*self.fed, *answer)))

    def limit_at(self, position: int) -> int:
        """How far the ring may run when everything below `position` is known to the reader."""
        return self.capacity if self.window is None else min(self.capacity, position + self.window)

    def last_hop_needs_ids(self) -> bool:
        """Whether the last hop must know what is fed: for penalties and scores, to go on with an answer, to guess."""
        resumes = len(self.fed) > self.prompt_tokens
        form = self.form()
        holds = form is not None and form[2] > 0
        return self.sampling.needs_prompt or self.prompt_scores or resumes or self.drafts > 0 or holds

    def form(self) -> tuple[ConstraintKind, str, int] | None:
        """What the last hop is told of the constraint: kind, text, and how many of the last fed tokens it holds."""
        if self.constraint is None:
            return None
        return self.constraint.kind, self.constraint.text, len(self.fed) - self.answer_from

    def finish_of(self, token: int, position: int) -> str | None:
        """What the last hop must say when it chooses `token` for `position`."""
        if token in self.eos:
            return "stop"
        return "length" if position + 1 >= self.capacity else None
