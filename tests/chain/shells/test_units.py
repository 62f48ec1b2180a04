"""Amounts are read strictly and written exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import InvalidArgument
from chain.units import MAX_AMOUNT, WEI_PER_FUNC, check_amount, format_func, parse_func


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("1", WEI_PER_FUNC),
        ("0.5", WEI_PER_FUNC // 2),
        ("1,000.25", 1000 * WEI_PER_FUNC + WEI_PER_FUNC // 4),
        (" 1.50 FUNC ", 3 * WEI_PER_FUNC // 2),
        ("0.000000000000000001", 1),
        ("1.000000000000000000000", WEI_PER_FUNC),
        ("250wei", 250),
        ("3 gwei", 3 * 10**9),
    ],
)
def test_amounts_are_read(text: str, wei: int) -> None:
    assert parse_func(text) == wei


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", "1e18", "1.", ".5", "1 000", "1,00", "0x10", "1_000", "٣", "0.5wei", "1 ETH", "inf", "NaN",
     "0.0000000000000000001", "0", "0.0", str(2**128)],
)  # fmt: skip
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_func(text)


def test_zero_is_an_amount_only_where_it_may_be() -> None:
    assert parse_func("0", allow_zero=True) == 0


@given(st.integers(1, MAX_AMOUNT))
def test_what_is_written_is_read_back_to_the_wei(wei: int) -> None:
    assert parse_func(format_func(wei)) == wei


@given(st.integers(0, MAX_AMOUNT), st.integers(0, 17))
def test_a_shortened_amount_never_shows_more_than_there_is(wei: int, decimals: int) -> None:
    shown = format_func(wei, decimals=decimals)
    kept = parse_func(shown.removesuffix("…"), allow_zero=True)
    assert kept == wei or (kept < wei and shown.endswith("…") and wei - kept < 10 ** (18 - decimals))


@pytest.mark.parametrize("amount", [1.0, True, "5", -1, 0, 2**128])
def test_only_positive_integers_are_amounts(amount: object) -> None:
    with pytest.raises(InvalidArgument):
        check_amount(amount)  # type: ignore[arg-type]
