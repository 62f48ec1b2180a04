"""Places that are drawn: bounded, as likely for one id as for another, and not to be forced."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery.places import DRAW_SECONDS, Draw, Places

NOW = 1_800_000_000.0


def places(room: int, secret: bytes = b"secret") -> Places[str]:
    return Places(room, Draw(secret), str.encode)


def ask(held: Places[str], who: str, now: float, *, weight: int = 1, life: float = 30.0) -> bool:
    """Ask for a place as a storage does; True when it is given."""
    losers = held.losers(who, weight, now)
    if losers is None:
        return False
    for loser in losers:
        held.drop(loser)
    held.take(who, weight, now + life, now)
    return True


@given(
    st.integers(1, 40),
    st.lists(
        st.tuples(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(1, 8), st.floats(0, 40)), max_size=200
    ),
    st.binary(max_size=64),
)
def test_the_room_is_never_overfilled_and_the_sum_is_always_right(
    room: int, asked: list[tuple[str, int, float]], secret: bytes
) -> None:
    held = places(room, secret)
    now = NOW
    for who, weight, later in asked:
        now += later / 10
        held.expire(now)
        given = ask(held, who, now, weight=weight, life=later)
        assert given is False or held.weight(who) == weight
        assert given or weight > room or held.full or held.used + weight > room
        assert held.used == sum(held.weight(each) for each in "abcdefghijklmnopqrstuvwxyz") <= room


@given(st.binary(max_size=64))
def test_those_that_leave_in_any_case_make_room_once(secret: bytes) -> None:
    held = places(6, secret)
    for who, weight in (("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1)):
        assert ask(held, who, NOW, weight=weight)
    losers = held.losers("new", 4, NOW + DRAW_SECONDS, leaving=("b",))
    if losers is not None:
        assert "b" not in losers
        assert 6 - held.used + 2 + sum(held.weight(each) for each in losers) >= 4


@given(st.integers(1, 30), st.binary(max_size=64))
def test_those_that_hold_a_place_renew_it_whatever_the_crowd(room: int, secret: bytes) -> None:
    held = places(room, secret)
    assert all(ask(held, f"first-{n}", NOW) for n in range(room))
    assert all(ask(held, f"first-{n}", NOW + 1, life=60) for n in range(room))
    assert held.used == room


def test_a_flood_never_takes_the_places_of_those_that_were_there_before_it() -> None:
    held = places(100)
    honest = [f"honest-{n}" for n in range(50)]
    for who in honest:
        ask(held, who, NOW)
    now = NOW + 1
    for _ in range(20):
        now += DRAW_SECONDS
        for n in range(2_000):
            ask(held, f"flood-{n}", now)
        for who in honest:
            assert who in held
            assert ask(held, who, now)


def test_in_a_draw_each_id_has_one_ticket_however_early_and_often_it_asks() -> None:
    """2,000 that ask once, after 18,000 that ask four times each: a tenth of the places, as of the ids."""
    held = places(1_000)
    rng = Random(5)
    for n in range(1_000):
        ask(held, f"before-{n}", NOW)
    won = 0
    for turn in range(1, 5):
        now = NOW + turn * DRAW_SECONDS
        for _ in range(4):
            for n in rng.sample(range(18_000), 18_000):
                ask(held, f"flood-{n}", now)
        for n in range(2_000):
            ask(held, f"honest-{n}", now)
        won += sum(f"honest-{n}" in held for n in range(2_000))
    assert 0.06 < won / (4 * 500) < 0.14


def test_a_hundred_thousand_ids_are_dealt_with_quickly_and_within_the_room() -> None:
    held = places(512)
    began = time.process_time()
    for n in range(100_000):
        ask(held, f"flood-{n}", NOW)
    assert len(held) == held.used == 512
    assert time.process_time() - began < 10


def test_a_newcomer_gets_a_place_within_the_time_that_the_crowd_sets_and_five_holders_make_it_shorter() -> None:
    """With N ids against a room of R each holder gives it a place in about one of 2 N / R draws."""
    rounds = []
    for run in range(8):
        holders = [places(128, bytes([run, n])) for n in range(5)]
        now = NOW
        for held in holders:
            for n in range(2_000):
                ask(held, f"flood-{n}", now)
        for draws in range(1, 200):
            now += DRAW_SECONDS
            for held in holders:
                for n in range(2_000):
                    ask(held, f"flood-{n}", now)
                ask(held, "newcomer", now)
            if any("newcomer" in held for held in holders):
                rounds.append(draws)
                break
    assert len(rounds) == 8
    assert max(rounds) < 60, "the chance of more is less than one in ten thousand"


def test_who_takes_more_room_has_worse_luck() -> None:
    won: Counter[str] = Counter()
    for secret in range(300):
        held = places(64, bytes([secret % 256, secret // 256]))
        for n in range(64):
            ask(held, f"before-{n}", NOW)
        now = NOW + DRAW_SECONDS
        for n in range(200):
            ask(held, f"small-{n}", now)
        won["small"] += ask(held, "small", now)
        won["large"] += ask(held, "large", now, weight=4)
    assert won["large"] * 2 < won["small"]


def test_the_order_cannot_be_foreseen_and_changes_with_every_draw() -> None:
    names = [f"peer-{n}".encode() for n in range(100)]
    first, second = Draw(), Draw()

    def order(draw: Draw, now: float) -> list[bytes]:
        return sorted(names, key=lambda name: draw.number(name, draw.turn(now)))

    assert order(first, NOW) == order(first, NOW + DRAW_SECONDS / 2)
    assert order(first, NOW) != order(first, NOW + DRAW_SECONDS)
    assert order(first, NOW) != order(second, NOW)


@pytest.mark.parametrize("room", [0, 3])
def test_what_is_larger_than_the_room_gets_none(room: int) -> None:
    held = places(room)
    assert not ask(held, "large", NOW, weight=4)
    assert len(held) == 0
