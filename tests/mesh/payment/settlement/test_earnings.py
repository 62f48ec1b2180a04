"""The table of earnings, from records of the chain."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.payment.settlement.earnings import (
    Compensated,
    Pending,
    Recorded,
    as_csv,
    as_plot,
    as_rows,
    creator_earnings,
    gateway_earnings,
    provider_earnings,
)

amounts = st.integers(0, 10**24)
ids = st.sampled_from(["a", "b"])
epochs = st.integers(1, 5)


@given(
    st.lists(st.builds(Recorded, ids, st.just(1), epochs, amounts, amounts)),
    st.lists(st.builds(Compensated, ids, st.just(1), epochs, amounts)),
    st.lists(st.builds(Pending, ids, st.just(1), epochs, amounts, st.integers(10**23, 10**24), st.integers(0, 10**23))),
    st.dictionaries(st.tuples(ids, epochs), amounts),
)
def test_nothing_is_counted_twice_or_left_out(
    recorded: list[Recorded],
    compensated: list[Compensated],
    pending: list[Pending],
    unclaimed: dict[tuple[str, int], int],
) -> None:
    rows = provider_earnings(recorded, compensated, pending, unclaimed)
    assert len({(row.epoch, row.id, row.model_id) for row in rows}) == len(rows)
    assert sum(row.earned for row in rows) == sum(each.reward for each in recorded)
    assert sum(row.units for row in rows) == sum(each.units for each in [*recorded, *pending])
    assert sum(row.compensated for row in rows) == sum(each.amount for each in compensated)
    assert sum(row.pending + row.owed for row in rows) == sum(each.fee for each in pending)
    assert sum(row.owed for row in rows) == sum(each.owed for each in pending)
    assert all(row.claimed + row.claimable == row.earned and row.claimed >= 0 <= row.claimable for row in rows)


def test_a_gateway_s_share_waits_until_it_may_be_claimed() -> None:
    rows = gateway_earnings("g", {1: 10, 2: 20, 3: 30}, {2: 20, 3: 30}, {1: 5}, claimable_to=2)
    assert [(row.earned, row.claimed, row.claimable, row.pending) for row in rows] == [
        (10, 10, 0, 0),
        (20, 0, 20, 0),
        (0, 0, 0, 30),
    ]


def test_royalties_are_claimed_oldest_first() -> None:
    rows = creator_earnings("m", 3, [(2, 1, 1000), (1, 1, 990)], 1000, 150)
    assert [(row.epoch, row.earned, row.claimed, row.claimable) for row in rows] == [(1, 99, 99, 0), (2, 100, 51, 49)]


def test_csv_has_a_header_and_integers_of_wei() -> None:
    rows = creator_earnings("m, the model", 3, [(1, 7, 10**24)], 500, 0)
    (line,) = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert line["id"] == "m, the model" and line["earned_wei"] == str(10**24 * 500 // 10_000)
    assert list(as_rows(rows)[0]) == list(line)
    assert as_csv([]).count("\n") == 1


def test_the_plot_has_a_curve_for_each_role_id_and_model_and_escapes_names() -> None:
    rows = creator_earnings("<m>", 3, [(1, 7, 10**24), (2, 7, 10**24)], 500, 0)
    drawn = as_plot([*rows, *gateway_earnings("g", {1: 10**20}, {}, {}, 1)])
    assert drawn.count("stroke-width") == 2 and "&lt;m&gt;" in drawn and "<m>" not in drawn
    with pytest.raises(ValueError, match="nothing"):
        as_plot([])
