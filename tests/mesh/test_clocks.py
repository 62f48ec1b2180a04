"""Whose clock is wrong: told by the neighbours' clocks, said once a minute, and when it is over."""

from __future__ import annotations

from mesh.discovery.clocks import ClockWatch

HOUR = 3600.0


def watch(*ahead: float, now: float = 0.0) -> ClockWatch:
    clocks = ClockWatch()
    for number, each in enumerate(ahead):
        clocks.note(f"peer-{number}", each, now)
    return clocks


def test_a_clock_that_most_neighbours_agree_with_is_right() -> None:
    assert watch().problem(0.0) is None
    assert watch(0.1, -0.2, 9.0).problem(0.0) is None
    assert watch(0.0, 0.1, HOUR).problem(0.0) is None  # another's is wrong


def test_a_clock_that_most_differ_from_is_wrong_and_by_how_much_is_said() -> None:
    assert "is 3,600 s ahead of its neighbours' (2 asked)" in str(watch(-HOUR, -HOUR).problem(0.0))
    assert "is 3,600 s behind its" in str(watch(HOUR, HOUR, 0.0).problem(0.0))


def test_it_is_said_once_a_minute_and_when_it_is_over() -> None:
    clocks = watch(HOUR)
    assert clocks.due(0.0)[0] is not None
    assert clocks.due(5.0) == (None, False)
    assert clocks.due(60.0)[0] is not None
    clocks.note("peer-0", 0.0, 65.0)
    assert clocks.due(65.0) == (None, True)
    assert clocks.due(70.0) == (None, False)


def test_what_was_heard_long_ago_counts_no_more() -> None:
    clocks = watch(HOUR)
    assert clocks.problem(61.0) is None
    assert clocks.due(61.0) == (None, False)
