"""What the last hop of a ring guesses of a session's next tokens, and how many guesses are worth a trip (pure).

One trip round the ring brings one token, or with `k` guesses that are all right, `k + 1`. What a guess costs is the
time of one more row in the pass of every stage, for all sessions that share it; what it brings depends on how often
guesses are right. Both are measured as the session goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shards.engine.lookup import NOTHING, Guess, PromptLookup

if TYPE_CHECKING:
    from shards.engine.step import StepOutput

FIRST_RIGHT = {2: 0.3, 3: 0.5, 4: 0.7}
"""How often the first guess after a match of so many tokens is taken to be right before anything is known."""
SPELLED_RIGHT = 0.85
"""How often a token is right that spells what an answer's form wants next: there are others that spell it too."""
RIGHT_WEIGHT = 0.3
"""How much one trip changes what is taken to be true of its matches."""
FORGET = 0.004
"""How fast, a token, that goes back to what it was at first: matches that failed are tried again now and then."""


class RowCosts:
    """What another row costs a trip, at one stage for all its sessions.

    The seconds of a row are the slope of a line through the engine's recent passes, by their rows (least squares, older
    ones count less), and the other stages are taken to compute as fast. All sessions of a pass wait for it. Trips are
    timed from one choice to the next: on long links, where they take long, a row costs little of one.
    """

    KEPT = 0.98
    MOST_ROWS = 128
    """Passes with more are prompts: they tell nothing of a row beside others that decode."""
    FIRST = 0.1
    """The slope before passes of different sizes are known, as a part of a pass."""
    LEAST = 0.02
    """The smallest slope that is believed: less is the noise of a busy machine."""
    PRIOR = 8.0
    OUTLIER = 4.0
    """A pass or a trip is not taken to be longer than so many usual ones: then something else was in the way."""
    SMOOTHING = 0.1

    def __init__(self, model_share: float = 1.0) -> None:
        """`model_share` is how much of the model the stage has."""
        self._share = model_share
        self._weight = self._rows = self._squares = self._time = self._products = 0.0
        self._sessions = 1.0
        self._trip = 0.0

    def passed(self, rows: int, seconds: float, sessions: int) -> None:
        """A pass over so many rows of so many sessions took so long."""
        if rows > self.MOST_ROWS or not rows:
            return
        self._sessions += self.SMOOTHING * (sessions - self._sessions)
        if self._weight > 1:
            seconds = min(seconds, self.OUTLIER * self._time / self._weight)
        self._weight = self.KEPT * self._weight + 1
        self._rows = self.KEPT * self._rows + rows
        self._squares = self.KEPT * self._squares + rows * rows
        self._time = self.KEPT * self._time + seconds
        self._products = self.KEPT * self._products + rows * seconds

    def observe(self, rows: int, seconds: float) -> None:
        """A session's trip with so many rows took so long."""
        alone = max(seconds - (rows - 1) * self._row_seconds, 0.0)
        if not self._trip:
            self._trip = alone
        self._trip += self.SMOOTHING * (min(alone, self.OUTLIER * self._trip) - self._trip)

    @property
    def row(self) -> float:
        """What one more row costs, as a part of a trip of one."""
        if self._trip <= 0:
            return self.FIRST * self._sessions
        return min(1.0, self._row_seconds / self._trip) * self._sessions

    @property
    def _row_seconds(self) -> float:
        if not self._weight:
            return 0.0
        mean_rows, mean = self._rows / self._weight, self._time / self._weight
        spread = self._squares - self._rows * mean_rows
        slope = (self._products - self._rows * mean + self.PRIOR * self.FIRST * mean) / (spread + self.PRIOR)
        return max(slope, self.LEAST * mean) / self._share


class Speculation:
    """One session's guesses (a `Guesser`); `costs` are its stage's."""

    def __init__(self, fed: Iterable[int], capacity: int, most: int, costs: RowCosts) -> None:
        self._lookup = PromptLookup(fed)
        self._capacity = capacity
        self._most = most
        self._costs = costs
        self._right = dict(FIRST_RIGHT)
        self._asked = NOTHING
        self._position = 0
        self._at: float | None = None

    def at(self, position: int) -> tuple[int, ...]:
        """See `Guesser`."""
        return self._asked.tokens if position == self._position else ()

    def follow(self, output: StepOutput, now: float) -> tuple[int, ...]:
        """See `Guesser`: as many as pay."""
        checked = 0 if output.input is None else len(output.input.drafts)
        if self._at is not None:
            self._costs.observe(output.count, now - self._at)
        tokens = tuple(choice.sampled.token for choice in output.choices)
        self.learn(output.choices[0].position, tokens, checked)
        position = output.choices[-1].position
        # The last position before the capacity is only chosen, never run.
        self._asked = self.guess(self._capacity - 2 - position, self._costs.row)
        self._position, self._at = position, now
        return self._asked.tokens

    def instead(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """See `Guesser`."""
        told, asked = tuple(tokens), self._asked
        if told == asked.tokens[: len(told)]:
            self._asked = Guess(told, asked.matched) if told else NOTHING
        else:  # what the form spells: nothing is learnt of matches from it
            self._asked = Guess(told[: worthwhile(SPELLED_RIGHT, self._costs.row, len(told))], 0)
        return self._asked.tokens

    def learn(self, position: int, tokens: tuple[int, ...], checked: int) -> None:
        """A trip that has `checked` guesses has brought these tokens for the positions from `position` on: all but
        the last were guessed right."""
        matched = self._asked.matched if checked else 0
        if matched:
            right = len(tokens) - 1
            # Of the guesses that were looked at: those that were right, and the one that was not.
            self._right[matched] += RIGHT_WEIGHT * (right / (right + (right < checked)) - self._right[matched])
        for size, first in FIRST_RIGHT.items():
            if size != matched:
                self._right[size] += FORGET * len(tokens) * (first - self._right[size])
        self._lookup.write(position, tokens)

    def guess(self, room: int, row_cost: float) -> Guess:
        """What may come next, at most `room` tokens, and as many as pay where a row costs so much of a trip."""
        found = self._lookup.guess(min(self._most, room))
        if not found.tokens:
            return NOTHING
        worth = worthwhile(self._right[found.matched], row_cost, len(found.tokens))
        return Guess(found.tokens[:worth], found.matched) if worth else NOTHING


class StageGuesses:
    """The guesses of a stage's sessions by prompt lookup (a `Guessing`)."""

    def __init__(self, model_share: float) -> None:
        """`model_share` is how much of the model the stage has."""
        self._costs = RowCosts(model_share)

    def begin(self, fed: Iterable[int], capacity: int, most: int) -> Speculation:
        """See `Guessing`."""
        return Speculation(fed, capacity, most, self._costs)

    def passed(self, outputs: Sequence[StepOutput]) -> None:
        """See `Guessing`."""
        rows, seconds = sum(each.count for each in outputs), sum(each.seconds for each in outputs)
        self._costs.passed(rows, seconds, len(outputs))


def worthwhile(right: float, row_cost: float, most: int) -> int:
    """How many guesses make the most tokens a second, when each is right with this probability given the ones before.

    Another one brings `right ** k` tokens for `row_cost` trips: it pays as long as that is more for its time than what
    the trip brings without it.
    """
    tokens, trips, chance = 1.0, 1.0, 1.0
    for count in range(most):
        chance *= right
        if chance * trips <= row_cost * tokens:
            return count
        tokens += chance
        trips += row_cost
    return most
