"""The last stage's part of a session: which positions need logits, which token comes next, when the session ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from shards.engine.sampling import Sampled, TokenHistory, sample, score
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation
from shards.model.stage import LogitsMode

Score = tuple[float, tuple[tuple[int, float], ...]]
"""A prompt token's log-probability and the most likely alternatives (token id, logprob)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen for `position`; `finish` says that the session ends with it, and why."""

    position: int
    sampled: Sampled
    finish: Literal["stop", "length"] | None


class Tail:
    """State of one session at the model's head.

    `fed` tokens are prefilled before the first choice, of which the first `prompt` are the prompt and the rest
    were chosen before (a session that resumes). `capacity` bounds prompt and answer together. `known` are the fed
    token ids, needed for penalties and prompt scores only.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt: int,
        fed: int,
        capacity: int,
        eos: Sequence[int],
        prompt_scores: bool = False,
        known: Sequence[int] | None = None,
    ) -> None:
        if (params.needs_prompt or prompt_scores) and (known is None or len(known) != fed):
            raise BadActivation("the last stage needs the fed token ids for these sampling parameters")
        self._params = params
        self._fed = fed
        self._capacity = capacity
        self._eos = frozenset(eos)
        self._prompt_scores = prompt_scores
        self._known = None if known is None else list(known)
        self._first_position = prompt
        self._history = TokenHistory(() if known is None else known[:prompt])
        for token in () if known is None else known[prompt:]:
            self._history.push(token)

    def want(self, start: int, count: int) -> LogitsMode:
        """Which logits the pass over `[start, start + count)` must return."""
        if self._prompt_scores and start < self._fed:
            return LogitsMode.ALL
        return LogitsMode.LAST if start + count >= self._fed else LogitsMode.NOTHING

    def conclude(self, start: int, count: int, logits: torch.Tensor) -> tuple[Choice | None, tuple[Score, ...]]:
        """Scores and choice after the pass over `[start, start + count)`; `logits` as `want` asked.

        Raises `BadActivation` when the logits are not numbers.
        """
        scores: tuple[Score, ...] = ()
        if self._prompt_scores and start < self._fed and self._known is not None:
            following = self._known[start + 1 : start + count + 1]
            if following:
                targets = torch.tensor(following, dtype=torch.int64, device=logits.device)
                scores = tuple(score(logits[: len(following)], targets, self._params.logprobs or 0))
        position = start + count
        if position < self._fed:
            return None, scores
        generated_before = position - self._first_position
        self._history.truncate(generated_before)
        sampled = sample(logits[-1], self._params, position, self._history)
        self._history.push(sampled.token)
        finish: Literal["stop", "length"] | None = None
        if sampled.token in self._eos:
            finish = "stop"
        elif position + 1 >= self._capacity:
            finish = "length"
        return Choice(position, sampled, finish), scores
