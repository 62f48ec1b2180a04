"""Properties of what a line does to packets, for any conditions and any traffic."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.network.conditions import Conditions, Fate, Line

seconds = st.floats(0, 2)
conditions = st.builds(
    Conditions,
    loss=st.floats(0, 1),
    delay=seconds,
    jitter=seconds,
    reorder=st.booleans(),
    rate=st.none() | st.floats(100, 1e7),
    queue=st.integers(0, 10**6),
)
traffic = st.lists(st.tuples(st.floats(0, 0.1), st.integers(20, 1500)), max_size=200)
"""(Seconds since the packet before, bytes)."""
seeds = st.integers(0, 2**32)


def run(line: Line, packets: list[tuple[float, int]]) -> list[tuple[float, int, float | None]]:
    """(Sent, bytes, arrives) of each packet."""
    now, seen = 0.0, []
    for pause, size in packets:
        now += pause
        seen.append((now, size, line.send(size, now)))
    return seen


@given(conditions, traffic, seeds)
def test_a_packet_arrives_within_delay_and_jitter_of_leaving_the_queue(asked, packets, seed) -> None:
    for sent, size, arrives in run(Line(dataclasses.replace(asked, reorder=True), random.Random(seed)), packets):
        if arrives is None:
            continue
        waits = 0.0 if asked.rate is None else asked.queue / asked.rate
        serial = 0.0 if asked.rate is None else size / asked.rate
        assert arrives >= sent + max(0.0, asked.delay - asked.jitter) + serial - 1e-6
        assert arrives <= sent + asked.delay + asked.jitter + waits + 1e-6


@given(conditions, traffic, seeds)
def test_without_reordering_packets_arrive_in_the_order_they_were_sent(asked, packets, seed) -> None:
    line = Line(dataclasses.replace(asked, reorder=False), random.Random(seed))
    arrivals = [arrives for *_, arrives in run(line, packets) if arrives is not None]
    assert arrivals == sorted(arrivals)


@given(conditions, traffic, seeds)
def test_the_same_seed_gives_the_same_fates(asked, packets, seed) -> None:
    once, again = (run(Line(asked, random.Random(seed)), packets) for _ in range(2))
    assert once == again


@given(conditions, traffic, seeds)
def test_a_line_with_a_rate_never_passes_more_than_its_rate(asked, packets, seed) -> None:
    asked = dataclasses.replace(asked, rate=asked.rate or 1000.0, delay=0.0, jitter=0.0)
    arrived = [(size, at) for _, size, at in run(Line(asked, random.Random(seed)), packets) if at is not None]
    for first in range(len(arrived)):
        start = arrived[first][1] - arrived[first][0] / asked.rate
        bytes_since = 0
        for size, at in arrived[first:]:
            bytes_since += size
            assert bytes_since <= (at - start) * asked.rate * (1 + 1e-9) + 1e-3


@given(conditions, traffic, seeds)
def test_every_packet_is_counted_once(asked, packets, seed) -> None:
    line = Line(asked, random.Random(seed))
    accepted = [arrives for *_, arrives in run(line, packets) if arrives is not None]
    for arrives in accepted:
        line.arrive(arrives)
    assert sum(line.counts.values()) == len(packets)
    assert line.counts[Fate.DELIVERED] == len(accepted)


@given(traffic, seconds, seconds, seeds)
def test_nothing_passes_a_cut_and_everything_passes_beside_it(packets, begins, lasts, seed) -> None:
    line = Line(Conditions(delay=0.05, jitter=0.02), random.Random(seed))
    line.cut(0.0, lasts, after=begins)
    for sent, _, arrives in run(line, packets):
        assert (arrives is None) == (begins <= sent < begins + lasts)
        if arrives is not None:
            assert line.arrive(arrives) == (not begins <= arrives < begins + lasts)


@given(traffic)
def test_a_cut_that_is_commanded_takes_what_is_on_its_way_and_ends_when_it_is_healed(packets) -> None:
    line = Line(Conditions(delay=1.0), random.Random(0))
    arrivals = [arrives for *_, arrives in run(line, packets) if arrives is not None]
    now = sum(pause for pause, _ in packets)
    line.cut(now)
    assert not any(line.arrive(at) for at in arrivals if at >= now)
    assert line.send(100, now) is None
    line.heal()
    assert line.send(100, now + 5.0) == pytest.approx(now + 6.0)


def test_a_cut_of_a_line_that_is_cut_makes_it_longer_and_never_shorter() -> None:
    line = Line(Conditions(), random.Random(0))
    line.cut(0.0, 20.0)
    line.cut(5.0, 1.0)
    assert line.is_cut(19.9)
    line.cut(19.0, 20.0)
    assert line.is_cut(38.9)
    assert not line.is_cut(39.0)


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.3])
def test_the_share_of_lost_packets_is_the_loss(loss: float) -> None:
    line, n = Line(Conditions(loss=loss), random.Random(1)), 50_000
    lost = sum(line.send(100, float(index)) is None for index in range(n))
    assert abs(lost - n * loss) < 5 * (n * loss * (1 - loss)) ** 0.5


def test_times_are_uniform_around_the_delay() -> None:
    line = Line(Conditions(delay=0.1, jitter=0.05, reorder=True), random.Random(1))
    times = sorted((line.send(100, float(index)) or 0.0) - index for index in range(10_000))
    quartiles = [times[len(times) * part // 4] for part in (1, 2, 3)]
    assert quartiles == pytest.approx([0.075, 0.1, 0.125], abs=0.003)
    assert times[0] >= 0.05 - 1e-9
    assert times[-1] <= 0.15 + 1e-9


IMPOSSIBLE = [{"loss": 1.1}, {"loss": -0.1}, {"delay": -1}, {"jitter": float("nan")}, {"queue": -1}, {"rate": 0}]


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=str)
def test_conditions_that_cannot_be_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="no line"):
        Conditions(**wrong)


@given(conditions)
def test_conditions_survive_json(asked) -> None:
    assert Conditions.from_json(asked.to_json()) == asked
