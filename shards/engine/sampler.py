"""The last stage's part of a session: which positions need logits, which token comes next, when the session ends."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from shards.engine.sampling import Draw, Sampled, TokenHistory, sample_all, score
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation, CapacityExceeded, ShardError
from shards.model.stage import LogitsMode

Score = tuple[float, tuple[tuple[int, float], ...]]
"""A prompt token's log-probability and the most likely alternatives (token id, logprob)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen for `position`; `finish` says that the session ends with it, and why."""

    position: int
    sampled: Sampled
    finish: Literal["stop", "length"] | None


class SamplerState:
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
        self._known = array("q", known if known is not None and prompt_scores else ())
        self._first_position = prompt
        self._history = TokenHistory(() if known is None else known[:prompt])
        for token in () if known is None else known[prompt:]:
            self._history.push(token)

    def want(self, start: int, count: int) -> LogitsMode:
        """Which logits the pass over `[start, start + count)` must return."""
        if self._prompt_scores and start < self._fed:
            return LogitsMode.ALL
        return LogitsMode.LAST if start + count >= self._fed else LogitsMode.NOTHING

    def scores(self, start: int, count: int, logits: torch.Tensor) -> tuple[Score, ...]:
        """What the prompt tokens after those of `[start, start + count)` were worth, where that was asked for.

        Raises `BadActivation` when the logits are not numbers.
        """
        if not self._prompt_scores or start >= self._fed:
            return ()
        following = self._known[start + 1 : start + count + 1]
        if not following:
            return ()
        targets = torch.tensor(following, dtype=torch.int64, device=logits.device)
        return tuple(score(logits[: len(following)], targets, self._params.logprobs or 0))

    def draw(self, position: int, logits: torch.Tensor) -> Draw | None:
        """What is to be sampled after everything before `position` has run; None while that is the prompt."""
        if position < self._fed:
            return None
        self._history.truncate(position - self._first_position)
        return Draw(logits, self._params, position, self._history)

    def take(self, position: int, sampled: Sampled) -> Choice:
        """The token for `position` has been chosen."""
        self._history.push(sampled.token)
        finish: Literal["stop", "length"] | None = None
        if sampled.token in self._eos:
            finish = "stop"
        elif position + 1 >= self._capacity:
            finish = "length"
        return Choice(position, sampled, finish)


Concluded = tuple[Choice | None, tuple[Score, ...]] | ShardError


def conclude(passed: Sequence[tuple[SamplerState, int, int, torch.Tensor]]) -> list[Concluded]:
    """For each session of a pass, of which `[start, start + count)` has run: its choice and its scores, or an error.

    `logits` are what `want` asked for. All tokens are sampled together.
    """
    results: list[Concluded] = []
    draws: list[tuple[int, Draw]] = []
    for index, (sampler, start, count, logits) in enumerate(passed):
        result: Concluded
        try:
            result = None, sampler.scores(start, count, logits)
            draw = sampler.draw(start + count, logits[-1:])
            if draw is not None:
                draws.append((index, draw))
        except ShardError as error:
            result = error
        except RuntimeError as error:  # what torch raises when the device has no room for the logits' copies
            result = CapacityExceeded(f"the device could not sample: {error}")
        results.append(result)
    for (index, draw), sampled in zip(draws, sample_all([draw for _, draw in draws]), strict=True):
        before = results[index]
        if isinstance(sampled, ShardError):
            results[index] = sampled
        elif not isinstance(before, ShardError):
            try:
                results[index] = passed[index][0].take(draw.position, sampled), before[1]
            except ShardError as error:
                results[index] = error
    return results
