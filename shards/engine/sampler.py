"""The last stage's part of a session: which positions need logits, which token comes next, when the session ends."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from shards.engine.sampling import Draw, Sampled, TokenHistory, sample_all, score
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation, CapacityExceeded, ShardError
from shards.model.stage import LogitsMode

Score = tuple[float, tuple[tuple[int, float], ...]]
"""A prompt token's log-probability and the most likely alternatives (token id, logprob)."""


class Form(Protocol):
    """What an answer is held to (`shards.grammar.matcher`). Raises `InvalidGrammar`."""

    @property
    def length(self) -> int:
        """Tokens of the answer that it knows."""

    def start(self, eos: Sequence[int], most: int | None = None) -> None:
        """The answer ends with one of these tokens, and has at most so many with it."""

    def follow(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these."""

    def mask(self, length: int) -> torch.Tensor:
        """Which tokens may follow the answer's first `length` ones; those after them are forgotten."""

    def allowed(self, tokens: Sequence[int]) -> int:
        """How many of these guesses may come next, one after the other."""

    def forced(self, most: int) -> tuple[int, ...]:
        """Guesses at tokens that spell what must come next."""


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
    token ids, needed for penalties and prompt scores only. `form` is what the answer is held to, and has followed what
    of it was fed.
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
        form: Form | None = None,
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
        self.form = form
        self._formed = 0 if form is None else fed - form.length
        """Position of the first token that is held to the form."""
        if form is not None:
            form.start(eos, capacity - self._formed)

    def want(self, start: int, count: int) -> LogitsMode:
        """Which logits the pass over `[start, start + count)` must return."""
        if self._prompt_scores and start < self._fed:
            return LogitsMode.ALL
        if start >= self._fed and count > 1:  # drafts: each row says whether the guess after it is right
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
        mask = None if self.form is None else self.form.mask(position - self._formed)
        return Draw(logits, self._params, position, self._history, mask)

    def take(self, position: int, sampled: Sampled) -> Choice:
        """The token for `position` has been chosen."""
        self._history.push(sampled.token)
        finish: Literal["stop", "length"] | None = None
        if sampled.token in self._eos:
            finish = "stop"
        elif position + 1 >= self._capacity:
            finish = "length"
        if self.form is not None and finish is None:
            self.form.follow((sampled.token,))
        return Choice(position, sampled, finish)


Concluded = tuple[tuple[Choice, ...], tuple[Score, ...]] | ShardError


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass has run of a session: `[start, start + count)`, of which the last rows are `drafts`, guesses at the
    answer's next tokens. `logits` are what `SamplerState.want` asked for."""

    sampler: SamplerState
    start: int
    count: int
    logits: torch.Tensor
    drafts: tuple[int, ...] = ()


def conclude(passed: Sequence[Passed]) -> list[Concluded]:
    """For each session of a pass its choices and its scores, or an error. The tokens of all are sampled together.

    A draft is right where it is the token that is chosen for its position, as it would be without drafts, with the
    random number of that position: then the row that was run with it counts, and another token is chosen. So the
    tokens are the same with drafts and without (speculative decoding, Leviathan et al. 2023, with the draft as a
    distribution of one token and both draws coupled by position).
    """
    results: list[Concluded] = []
    going: list[int] = []
    for index, each in enumerate(passed):
        result: Concluded
        try:
            result = (), each.sampler.scores(each.start, each.count, each.logits)
            going.append(index)
        except ShardError as error:
            result = error
        except RuntimeError as error:  # what torch raises when the device has no room for the logits' copies
            result = CapacityExceeded(f"the device could not sample: {error}")
        results.append(result)
    right = 0  # drafts that are right, of all that still go on
    while going:
        going = [index for index in _choose(passed, going, right, results) if right < len(passed[index].drafts)]
        going = [index for index in going if _is_right(results[index], passed[index].drafts[right])]
        right += 1
    return results


def _is_right(concluded: Concluded, draft: int) -> bool:
    if isinstance(concluded, ShardError):
        return False
    choice = concluded[0][-1]
    return choice.finish is None and choice.sampled.token == draft


def _choose(passed: Sequence[Passed], going: Sequence[int], right: int, results: list[Concluded]) -> list[int]:
    """Choose one more token for each session that is `going`, after so many `right` drafts; those that got one."""
    draws: list[tuple[int, Draw]] = []
    for index in going:
        each = passed[index]
        behind = len(each.drafts) - right  # rows after the one that chooses
        row = len(each.logits) - 1 - behind
        try:
            draw = each.sampler.draw(each.start + each.count - behind, each.logits[row : row + 1])
        except ShardError as error:
            results[index] = error
            continue
        except RuntimeError as error:
            results[index] = CapacityExceeded(f"the device could not sample: {error}")
            continue
        if draw is not None:
            draws.append((index, draw))
    chosen: list[int] = []
    for (index, draw), sampled in zip(draws, sample_all([draw for _, draw in draws]), strict=True):
        before = results[index]
        if isinstance(sampled, ShardError):
            results[index] = sampled
        elif not isinstance(before, ShardError):
            try:
                results[index] = (*before[0], passed[index].sampler.take(draw.position, sampled)), before[1]
                chosen.append(index)
            except ShardError as error:
                results[index] = error
    return chosen
