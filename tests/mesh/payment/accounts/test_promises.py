"""A payer's own books: whatever a gateway says, what is signed stays within what the payer chose to risk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.accounts.promises import AccountContradicted, PayerBooks, Told

AMOUNTS = st.integers(0, 1000) | st.sampled_from([10**38, 0, 1])
HONEST = Told(signed=0, spent=0, pending=0, deposit=1000, increment=40)


@given(
    st.lists(st.builds(Told, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), max_size=60),
    st.integers(0, 300),
    st.integers(0, 500),
    st.integers(0, 500),
)
def test_lies_about_any_figure_never_make_more_than_the_budget_nor_more_than_is_ahead_of_what_was_signed(
    lies: list[Told], ahead: int, budget: int, before: int
) -> None:
    books = PayerBooks(ahead, budget)
    books.recover(before)
    books.begin()
    for told in lies:
        highest = books.promised
        try:
            books.follow(told)
        except AccountContradicted:
            assert told.signed > highest or told.spent > highest
            continue
        amount = books.next_voucher(told)
        if amount is not None:
            assert amount <= before + budget
            assert amount <= books.followed + ahead <= max(highest, before) + ahead
            assert amount <= told.deposit
            books.sign(amount)
        assert highest <= books.promised <= before + budget


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 100)), max_size=40),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 3000),
)
def test_an_honest_gateway_is_paid_what_it_asks_ahead_as_far_as_that_is_allowed(
    uses: list[tuple[int, int]], increment: int, ahead: int, deposit: int
) -> None:
    books = PayerBooks(ahead, None)
    told = replace(HONEST, deposit=deposit, increment=increment)
    for use, pending in uses:
        told = replace(told, pending=pending)
        books.follow(told)
        amount = books.next_voucher(told)
        wanted = min(told.spent + min(ahead, increment + pending), deposit)
        assert amount == (wanted if wanted > told.signed else None)
        if amount is not None:
            books.sign(amount)
            told = replace(told, signed=amount)
        told = replace(told, spent=told.spent + min(use, told.signed - told.spent))


@pytest.mark.parametrize("field", ["signed", "spent"])
def test_a_figure_beyond_what_was_ever_signed_is_disputed_by_name_and_changes_nothing(field: str) -> None:
    books = PayerBooks(100, 1000)
    books.sign(50)
    with pytest.raises(AccountContradicted) as caught:
        books.follow(replace(HONEST, **{field: 51}))
    assert caught.value.field == field
    assert (books.promised, books.followed) == (50, 0)
    books.recover(51)
    books.follow(replace(HONEST, **{field: 51}))


def test_what_is_promised_already_may_be_signed_again_beyond_the_budget() -> None:
    books = PayerBooks(ahead=100, budget=0)
    books.recover(70)
    books.begin()
    assert books.next_voucher(HONEST) == 40, "the gateway has lost the voucher: this adds nothing"
    assert books.next_voucher(replace(HONEST, increment=500)) == 70
    assert books.next_voucher(replace(HONEST, signed=70, spent=70)) is None


def test_what_a_gateway_has_handed_out_is_never_less_than_it_was() -> None:
    books = PayerBooks(ahead=100, budget=1000)
    books.sign(500)
    books.follow(replace(HONEST, signed=500, spent=450))
    assert books.next_voucher(replace(HONEST, signed=100, spent=60)) == 490
