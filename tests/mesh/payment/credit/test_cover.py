"""What counts of the vouchers that a provider holds: never more than the gateway's line guarantees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.credit.cover import Change, Cover, Promise
from mesh.payment.credit.units import ModelPrice

TARIFF = ModelPrice(10, 5)
"""Two wei a unit."""


def at_risk(cover: Cover, promises: dict[int, Promise], tariffs: dict[int, ModelPrice]) -> int:
    """Wei of what counts and is neither safe nor given up."""
    return sum(
        tariffs[epoch].fee(cover.counted[epoch] - promise.safe)
        for epoch, promise in promises.items()
        if not promise.written_off
    )


def test_what_fits_into_the_line_counts_and_the_rest_waits() -> None:
    cover = Cover()

    assert cover.update({7: Promise(100)}, 120, {7: TARIFF}) == Change(60, 40, 0, 200)
    assert cover.update({7: Promise(100)}, 160, {7: TARIFF}) == Change(20, 20, 0, 200)


def test_the_oldest_work_counts_first() -> None:
    cover = Cover()
    cover.update({8: Promise(50), 7: Promise(50)}, 120, {7: TARIFF, 8: TARIFF})

    assert cover.counted == {7: 50, 8: 10}


def test_work_that_is_safe_makes_room_for_more() -> None:
    cover = Cover()
    cover.update({7: Promise(50), 8: Promise(50)}, 100, {7: TARIFF, 8: TARIFF})

    change = cover.update({7: Promise(50, safe=50), 8: Promise(50)}, 100, {7: TARIFF, 8: TARIFF})

    assert (change.gained, change.uncovered) == (50, 0)


def test_a_line_that_is_thawed_takes_back_nothing_and_covers_nothing_more() -> None:
    cover = Cover()
    cover.update({7: Promise(50)}, 100, {7: TARIFF})

    change = cover.update({7: Promise(60)}, 0, {7: TARIFF})

    assert (cover.counted, change.gained, change.uncovered) == ({7: 50}, 0, 10)


def test_what_is_given_up_is_lost_as_far_as_it_never_counted_and_only_once() -> None:
    cover = Cover()
    cover.update({7: Promise(50)}, 60, {7: TARIFF})
    given_up = {7: Promise(50, written_off=True)}

    assert cover.update(given_up, 60, {7: TARIFF}) == Change(0, 0, 20, 0)
    assert cover.update(given_up, 60, {7: TARIFF}) == Change(0, 0, 0, 0)


def test_work_on_a_model_that_is_free_needs_no_line() -> None:
    assert Cover().update({7: Promise(10**12)}, 0, {7: ModelPrice(0, 5)}).uncovered == 0


def test_a_promise_whose_tariff_is_not_known_waits() -> None:
    assert Cover().update({7: Promise(50)}, 10**18, {}) == Change(0, 50, 0, 0)


amounts = st.integers(0, 10**6)
steps = st.lists(
    st.tuples(
        st.integers(1, 4),
        amounts,
        amounts,
        st.sampled_from(("voucher", "voucher", "safe", "written off", "line")),
    ),
    max_size=40,
)


@given(steps, st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.integers(1, 64))
def test_whatever_happens_what_counts_was_guaranteed_and_is_never_taken_back(
    events: list[tuple[int, int, int, str]], prices: list[int], blocks: int
) -> None:
    tariffs = {epoch: ModelPrice(price, blocks) for epoch, price in enumerate(prices, 1)}
    promises: dict[int, Promise] = {}
    cover, guarantee, highest = Cover(), 0, 0
    for epoch, units, wei, kind in events:
        known = promises.get(epoch, Promise(0))
        match kind:
            case "voucher":
                promises[epoch] = Promise(max(known.vouched, units), known.safe, known.written_off)
            case "safe":
                promises[epoch] = Promise(known.vouched, max(known.safe, min(units, known.vouched)), known.written_off)
            case "written off":
                promises[epoch] = Promise(known.vouched, known.safe, True)
            case _:
                guarantee = wei
        highest = max(highest, guarantee)
        before = dict(cover.counted)

        change = cover.update(promises, guarantee, tariffs)

        assert all(cover.counted[each] >= units for each, units in before.items())
        assert all(promise.safe <= cover.counted[each] <= promise.vouched for each, promise in promises.items())
        assert at_risk(cover, promises, tariffs) <= highest
        assert change.uncovered == sum(
            promise.vouched - cover.counted[each] for each, promise in promises.items() if not promise.written_off
        )
