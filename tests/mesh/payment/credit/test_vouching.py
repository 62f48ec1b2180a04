"""What a gateway signs for: no more units than reached it, and none dearer than when they came."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.payment.credit.line import GENESIS, Pair, ReceiptClaim
from mesh.payment.credit.vouching import VoucherLine

PAIR = Pair("gate", "ann", 5)


def claimed(line: VoucherLine, epoch: int, units: int) -> None:
    line.receipt(ReceiptClaim(PAIR, epoch, line.sequence + 1, units, GENESIS))


def sign(line: VoucherLine, epoch: int, prices: dict[int, int]) -> int:
    """Sign for all that is due; the units that this adds."""
    units = line.due(epoch, prices)
    if units is None:
        return 0
    before = line.epochs[epoch].vouched
    line.sign(epoch, units, prices)
    return units - before


def test_a_claim_in_the_next_epoch_is_worth_what_the_work_cost_when_it_came() -> None:
    line = VoucherLine(PAIR)
    line.accrue(7, 500)
    claimed(line, 8, 500)

    assert sign(line, 8, {7: 1, 8: 100}) == 5


def test_work_is_worth_no_more_units_when_the_price_falls() -> None:
    line = VoucherLine(PAIR)
    line.accrue(7, 500)
    claimed(line, 8, 10_000)

    assert sign(line, 8, {7: 100, 8: 1}) == 500


def test_work_of_this_epoch_is_not_claimed_for_the_last_one() -> None:
    line = VoucherLine(PAIR)
    line.accrue(8, 500)
    claimed(line, 7, 500)

    assert sign(line, 7, {7: 100, 8: 1}) == 0


def test_what_is_left_over_from_old_epochs_does_not_pile_up() -> None:
    line = VoucherLine(PAIR)
    prices = dict.fromkeys(range(1, 1001), 10)
    for epoch in range(1, 1001):
        line.turn(epoch, prices)
        line.accrue(epoch, 1)
        claimed(line, epoch, 0)

    assert (len(line.unsigned), len(line.epochs)) == (2, 2)
    assert sum(line.unsigned.values()) == 1000


def test_without_the_prices_nothing_old_is_signed_for_and_nothing_is_lost() -> None:
    line = VoucherLine(PAIR)
    line.accrue(7, 500)
    claimed(line, 8, 500)
    line.turn(9, {})

    assert line.due(8, {8: 10}) is None
    assert line.due(8, {7: 10, 8: 10}) == 500


def test_a_receipt_that_takes_back_or_repeats_is_a_violation() -> None:
    line = VoucherLine(PAIR)
    claimed(line, 7, 100)

    with pytest.raises(ProtocolViolation):
        line.check_receipt(7, 2, 99)
    with pytest.raises(ProtocolViolation):
        line.check_receipt(7, 1, 200)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("tokens"), st.integers(1, 10**6), st.just(0)),
        st.tuples(st.just("claim"), st.integers(0, 2), st.integers(0, 10**7)),
    ),
    max_size=40,
)


@given(actions, st.lists(st.integers(0, 50), min_size=130, max_size=130))
def test_whatever_is_claimed_no_more_wei_are_signed_than_the_tokens_were_worth(
    events: list[tuple[str, int, int]], drawn: list[int]
) -> None:
    prices = dict(enumerate(drawn, 1))
    line, epoch = VoucherLine(PAIR), 2
    earned, accrued = 0, 0
    signed: Counter[int] = Counter()
    for kind, number, units in events:
        if kind == "turn":
            epoch += number
            line.turn(epoch, prices)
        elif kind == "tokens":
            line.accrue(epoch, number)
            earned, accrued = earned + number * prices[epoch], accrued + number
        elif epoch - number >= max(1, epoch - 1):
            counts = line.epochs.get(epoch - number)
            claimed(line, epoch - number, units + (counts.receipted if counts is not None else 0))
        for each in (epoch, epoch - 1):
            signed[each] += sign(line, each, prices)
        assert sum(units * prices[each] for each, units in signed.items()) <= earned
        assert signed.total() == line.signed <= line.verified == accrued
