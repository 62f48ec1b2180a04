"""Token buckets and reserved places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.accounts.limits import Places, TokenBucket

ANN, BOB = b"a" * 20, b"b" * 20


def test_a_bucket_lets_a_minute_through_and_then_says_how_long_to_wait() -> None:
    bucket = TokenBucket(60)
    for _ in range(60):
        assert bucket.wait(1, now=0.0) == 0
        bucket.draw(1, now=0.0)
    assert bucket.wait(1, now=0.0) == pytest.approx(1.0)
    assert bucket.wait(1, now=1.0) == pytest.approx(0.0)
    assert bucket.wait(10, now=1.0) == pytest.approx(9.0)


def test_more_than_a_full_bucket_waits_for_a_full_one_and_delays_the_next() -> None:
    bucket = TokenBucket(60)
    assert bucket.wait(600, now=0.0) == 0
    bucket.draw(600, now=0.0)
    assert bucket.wait(1, now=0.0) == pytest.approx(541.0)


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = TokenBucket(60)
    bucket.draw(60, now=100.0)
    assert bucket.wait(1, now=50.0) == pytest.approx(1.0)
    assert bucket.wait(1, now=100.5) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), max_size=60), st.integers(1, 100))
def test_no_window_of_time_lets_more_through_than_the_rate_and_one_full_bucket(
    asks: list[tuple[float, int]], per_minute: int
) -> None:
    bucket, now = TokenBucket(per_minute), 0.0
    let: list[tuple[float, int]] = []
    for pause, amount in asks:
        now += pause
        amount = min(amount, per_minute)
        if bucket.wait(amount, now) == 0:
            bucket.draw(amount, now)
            let.append((now, amount))
    for first, (start, _) in enumerate(let):
        for last in range(first, len(let)):
            passed = sum(amount for _, amount in let[first : last + 1])
            assert passed <= per_minute * (1 + (let[last][0] - start) / 60) + 1e-6


def test_reserved_places_stay_free_for_their_account() -> None:
    places = Places(total=4, reservable=3)
    assert places.reserve(ANN, 2) == 2
    assert [places.enter(None), places.enter(BOB), places.enter(BOB)] == [True, True, False]
    assert [places.enter(ANN), places.enter(ANN), places.enter(ANN)] == [True, True, False]
    places.leave(None)
    assert places.enter(ANN), "an account may also have shared places"
    assert not places.enter(BOB)


def test_not_everything_can_be_reserved() -> None:
    places = Places(total=4, reservable=3)
    assert places.reserve(ANN, 2) == 2
    assert places.reserve(BOB, 2) == 1
    assert places.reserve(ANN, 0) == 0
    assert places.reserve(BOB, 2) == 2
    assert places.reserve(BOB, 2) == 2


@given(st.lists(st.tuples(st.sampled_from([ANN, BOB, None]), st.sampled_from(["enter", "leave", "reserve", "drop"]))))
def test_there_are_never_more_requests_than_places_unless_a_reservation_came_late(
    steps: list[tuple[bytes | None, str]],
) -> None:
    places = Places(total=5, reservable=3)
    for who, what in steps:
        if what == "enter":
            before = sum(places.running.values())
            entered = places.enter(who)
            own = places.reserved.get(who, 0) if who is not None else 0
            if entered and places.running[who] > own:
                assert before < places.total
        elif what == "leave" and places.running.get(who):
            places.leave(who)
        elif who is not None and what == "reserve":
            places.reserve(who, 2)
        elif who is not None and what == "drop":
            places.reserve(who, 0)
        assert sum(places.reserved.values()) <= places.reservable
        assert all(count > 0 for count in places.running.values())


@given(st.integers(2, 64), st.integers(1, 6))
def test_accounts_that_take_all_they_can_leave_room_for_another_and_get_equal_shares(total: int, greedy: int) -> None:
    places = Places(total=total, reservable=0)
    accounts = [bytes([number]) * 20 for number in range(greedy)]
    growing = True
    while growing:  # in turns
        growing = sum(places.enter(account) for account in accounts) > 0
    shares = [places.running.get(account, 0) for account in accounts]
    left = total - sum(shares)
    assert max(shares) <= max(1, (total + 1) // 2)
    assert max(shares) - min(shares) <= 1
    if total > greedy:
        assert left >= 1 and places.enter(b"newcomer" * 2)
