"""The search: random sequences of moves, the best of which are changed a little and tried again; what is found is cut
down to the moves that it needs. Everything follows from a seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, TypeAlias

from tests.profit.coalition import Coalition, Move
from tests.profit.game import Game, Score
from tests.profit.moves import MOVES, WEIGHTS, play_move

Moves: TypeAlias = tuple[Move, ...]
NewGame: TypeAlias = Callable[[], Game]
STEPS: Final = 60
NUMBERS: Final = 96
"""Moves read their numbers modulo small ones, of which this is a multiple."""
ELITE: Final = 24
KINDS: Final = 64
SPLICED: Final = 0.3
FRESH: Final = 0.3
"""Share of runs that begin anew instead of changing a good one."""
NAMES: Final = tuple(MOVES)


@dataclass(frozen=True, slots=True)
class Finding:
    """Moves after which somebody is worse off than was stated."""

    moves: Moves
    score: Score
    run: int
    seconds: float


@dataclass(slots=True)
class Search:
    """`run` plays one sequence after another until something is found or the budget is spent."""

    new_game: NewGame
    seed: int
    steps: int = STEPS
    without: NewGame | None = None
    """A game in which the same moves must come to less: a rule is found only by what it adds to that."""
    runs: int = 0
    elite: list[tuple[int, Moves]] = field(default_factory=list)
    """Those that took most."""
    kinds: list[Moves] = field(default_factory=list)
    """Those in which calls went through in an order that was new."""
    seen: set[tuple[str, str]] = field(default_factory=set)

    def run(self, most: int) -> Finding | None:
        rng, began = Random(self.seed), time.monotonic()
        for _ in range(most):
            moves = self._next(rng)
            game = self.new_game()
            score = play(game, moves)
            self.runs += 1
            if score.found and self._adds(score, moves):
                return Finding(moves, score, self.runs, time.monotonic() - began)
            self._keep(score, game.world.seen, moves)
        return None

    def judge(self, moves: Moves) -> Score | None:
        """What moves come to, if that is a finding."""
        score = play(self.new_game(), moves)
        return score if score.found and self._adds(score, moves) else None

    def _adds(self, score: Score, moves: Moves) -> bool:
        return self.without is None or score.exceeds(play(self.without(), moves))

    def _next(self, rng: Random) -> Moves:
        if len(self.elite) < ELITE // 2 or rng.random() < FRESH:
            return random_moves(rng, self.steps)
        moves, other = self._good(rng), self._good(rng)
        if rng.random() < SPLICED:
            at = rng.randrange(self.steps)
            moves = (*moves[:at], *other[at:])
        return changed(rng, moves, self.steps)

    def _good(self, rng: Random) -> Moves:
        if rng.random() < 0.5:
            return rng.choice(self.kinds[-KINDS:])
        return self.elite[min(rng.randrange(len(self.elite)), rng.randrange(len(self.elite)))][1]

    def _keep(self, score: Score, seen: set[tuple[str, str]], moves: Moves) -> None:
        if not seen <= self.seen:
            self.seen |= seen
            self.kinds.append(moves)
        self.elite.append((score.taken, moves))
        self.elite.sort(key=lambda each: -each[0])
        del self.elite[ELITE:]


def random_moves(rng: Random, steps: int) -> Moves:
    names = rng.choices(NAMES, WEIGHTS, k=steps)
    return tuple((name, *(rng.randrange(NUMBERS) for _ in range(3))) for name in names)  # type: ignore[misc]


def changed(rng: Random, moves: Moves, steps: int) -> Moves:
    """Some moves dropped, added, repeated elsewhere, or with another number."""
    found = list(moves)
    for _ in range(1 + rng.randrange(6)):
        at = rng.randrange(len(found))
        match rng.randrange(5):
            case 0:
                del found[at]
            case 1:
                found.insert(at, random_moves(rng, 1)[0])
            case 2:
                found.insert(rng.randrange(len(found)), found[at])
            case _:
                numbers = list(found[at][1:])
                numbers[rng.randrange(3)] = rng.randrange(NUMBERS)
                found[at] = (found[at][0], *numbers)  # type: ignore[assignment]
        if len(found) < steps:
            found.extend(random_moves(rng, steps - len(found)))
    return tuple(found[:steps])


def play(game: Game, moves: Sequence[Move]) -> Score:
    """What a sequence of moves comes to."""
    coalition = Coalition(game)
    for move in moves:
        play_move(coalition, move)
    game.unwind()
    return game.score()


def shrink(judge: Callable[[Moves], Score | None], finding: Finding, budget: int = 400) -> Finding:
    """The same finding with fewer moves, as far as `budget` plays go."""
    best, size = finding, max(1, len(finding.moves) // 2)
    while size and budget > 0:
        at = 0
        while at < len(best.moves) and budget > 0:
            fewer = best.moves[:at] + best.moves[at + size :]
            budget -= 1
            score = judge(fewer)
            if score is not None:
                best = replace(best, moves=fewer, score=score)
            else:
                at += size
        size //= 2
    return best


def told(finding: Finding) -> str:
    """A finding for people."""
    lines = [f"  {name}({a}, {b}, {c})" for name, a, b, c in finding.moves]
    score = finding.score
    losses = ", ".join(f"{name} {loss:,}" for name, loss in score.losses.items() if loss > 0)
    ends = [f"coalition's gain {score.gain:,} wei; losses: {losses or 'none'}", *score.broken]
    return "\n".join([*lines, *("  => " + end for end in ends)])
