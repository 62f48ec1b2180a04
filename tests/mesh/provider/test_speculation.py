"""How many guesses the last hop makes: many on long links and where they are right, few where stages are busy."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.provider.stage.speculation import RowCosts, Speculation, worthwhile
from shards.engine.sampler import Choice
from shards.engine.sampling import Sampled
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.model.span import Span

NOBODY = SequenceState(1, b"", "", Span(0, 1), 1)
PASS, ROW = 0.010, 0.001
"""Seconds of a pass of the stage, and of one more row in it."""


def costs(trip: float, sessions: int = 1, share: float = 1 / 3) -> RowCosts:
    """Of a stage that has this share of the model, and the sessions of which make trips of so many seconds."""
    made, chance = RowCosts(share), Random(1)
    for _ in range(200):
        rows = sessions + chance.choice((0, 0, 3, 8))
        made.passed(rows, PASS + ROW * rows, sessions)
        made.observe(1 + rows - sessions, trip + 3 * ROW * (rows - sessions))
    return made


@given(st.floats(0.01, 0.99), st.floats(0.001, 5.0), st.integers(0, 15))
def test_the_number_of_guesses_makes_the_most_tokens_a_second(right: float, row_cost: float, most: int) -> None:
    def rate(guesses: int) -> float:
        return sum(right**each for each in range(guesses + 1)) / (1 + guesses * row_cost)

    chosen = worthwhile(right, row_cost, most)
    assert rate(chosen) >= max(rate(each) for each in range(most + 1)) - 1e-9


def test_a_row_costs_a_part_of_a_trip_and_less_of_a_long_one() -> None:
    assert costs(3 * PASS).row == pytest.approx(ROW * 3 / (3 * PASS), rel=0.15)
    assert costs(10 * PASS).row == pytest.approx(ROW * 3 / (10 * PASS), rel=0.15)


def test_a_row_costs_more_where_others_wait_for_it() -> None:
    alone, beside = costs(3 * PASS), costs(3 * PASS, sessions=16)
    assert beside.row > 12 * alone.row
    assert worthwhile(0.7, alone.row, 15) >= 3 and worthwhile(0.7, beside.row, 15) == 0


def test_prompts_and_stalls_do_not_change_what_a_row_costs() -> None:
    made = costs(3 * PASS)
    before = made.row
    for _ in range(3):
        made.passed(512, 1.5, 4)
    assert made.row == before
    made.passed(1, 20.0, 1)
    made.observe(1, 20.0)
    assert before / 3 < made.row < 3 * before


def guesses_of(text: Sequence[int], row_cost: float) -> list[int]:
    """How many guesses a session makes in each of its trips, whose answer is what this text says after 64 tokens."""
    stage = RowCosts()
    stage.passed(1, row_cost, 1)
    stage.observe(1, RowCosts.FIRST)  # a row of a pass takes a part of its time, and that part of this trip
    session = Speculation(text[:64], len(text), 15, stage)
    counts: list[int] = []
    drafts: tuple[int, ...] = ()
    position, now = 64, 0.0
    while position < len(text) - 20:
        right = next((n for n, each in enumerate(drafts) if text[position + n] != each), len(drafts))
        choices = tuple(Choice(position + n, Sampled(text[position + n]), None) for n in range(right + 1))
        work = StepInput(NOBODY, position - 1, 1 + len(drafts), verifies=bool(drafts), drafts=drafts)
        drafts = session.follow(StepOutput(NOBODY, work, work.start, work.count, choices=choices), now)
        position += right + 1
        now += RowCosts.FIRST * (1 + row_cost * len(drafts))
        assert session.at(position - 1) == drafts and session.at(position) == ()
        counts.append(len(drafts))
    return counts


def test_of_a_text_that_repeats_itself_soon_as_much_is_guessed_as_may_be() -> None:
    counts = guesses_of([7, 8, 9, 10, 11, 12] * 60, 0.05)
    assert counts[0] >= 2 and counts[6:12] == [15] * 6


def test_of_a_text_whose_matches_say_nothing_little_is_guessed_after_a_while() -> None:
    chance = Random(2)
    text = [chance.randrange(8) for _ in range(600)]
    dear, cheap = guesses_of(text, 0.3), guesses_of(text, 0.001)
    assert sum(dear[20:]) < 0.1 * len(dear[20:])
    assert sum(cheap) > 3 * sum(dear), "on a long link a guess costs next to nothing"


def test_nothing_is_guessed_beyond_the_last_position_that_is_run() -> None:
    session = Speculation([5, 6] * 20, 46, 15, RowCosts())
    choices = (Choice(40, Sampled(5), None),)
    assert len(session.follow(StepOutput(NOBODY, None, 39, 1, choices=choices), 0.0)) <= 4
    choices = (Choice(44, Sampled(5), None),)
    assert session.follow(StepOutput(NOBODY, None, 43, 1, choices=choices), 1.0) == ()
