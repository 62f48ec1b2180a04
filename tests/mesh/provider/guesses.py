"""Guesses for tests: of texts that are known, right and wrong ones as chance wants (see `Guessing`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from shards.engine.step import StepOutput


class KnownGuesses:
    """`text_of` says how the text of a session goes on that was fed these tokens, as far as that is known."""

    def __init__(self, text_of: Callable[[Sequence[int]], Sequence[int]], chance: Random, vocab: int) -> None:
        self.text_of = text_of
        self.chance = chance
        self.vocab = vocab
        self.guessed = 0

    def begin(self, fed: Sequence[int], capacity: int, most: int) -> KnownGuesser:
        return KnownGuesser(self, len(fed), self.text_of(fed), capacity, most)

    def passed(self, outputs: Sequence[StepOutput]) -> None:
        pass


class KnownGuesser:
    """The guesses of one session. Of all, a third are wrong; after the known end of the text all are made up."""

    def __init__(self, family: KnownGuesses, fed: int, answer: Sequence[int], capacity: int, most: int) -> None:
        self._family = family
        self._fed = fed
        self._answer = answer
        self._capacity = capacity
        self._most = most
        self._asked: tuple[int, tuple[int, ...]] = 0, ()

    def at(self, position: int) -> tuple[int, ...]:
        return self._asked[1] if position == self._asked[0] else ()

    def follow(self, output: StepOutput, now: float) -> tuple[int, ...]:
        chance, position = self._family.chance, output.choices[-1].position
        count = min(chance.randint(0, self._most), max(0, self._capacity - 2 - position))
        known = self._answer[position + 1 - self._fed :][:count]
        guesses = [token if chance.random() > 1 / 3 else chance.randrange(self._family.vocab) for token in known]
        guesses += [chance.randrange(self._family.vocab) for _ in range(count - len(guesses))]
        self._asked = position, tuple(guesses)
        self._family.guessed += count
        return tuple(guesses)

    def instead(self, tokens: Sequence[int]) -> tuple[int, ...]:
        self._asked = self._asked[0], tuple(tokens)
        return tuple(tokens)
