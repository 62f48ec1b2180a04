"""The pure arithmetic under the ledger, and the journal that takes back what failed; numbers worked out by hand."""

from __future__ import annotations

import pytest

from chain.contract_errors import (
    NothingToClaim,
)
from chain.emission import HalvingSchedule, emission_for, fill_pot, rewards, split_fees
from tests.chain.spec.journal import Cell, Journal, Table


def test_emission_is_scaled_to_the_budget_and_bounded_by_the_cap() -> None:
    assert emission_for(budget=100, weight=40, total_weight=90, left=1000) == 40
    assert emission_for(budget=100, weight=40, total_weight=160, left=1000) == 25
    assert emission_for(budget=100, weight=40, total_weight=90, left=7) == 7
    assert emission_for(budget=0, weight=0, total_weight=0, left=7) == 0


def test_a_halving_schedule_never_pays_more_than_its_total() -> None:
    schedule = HalvingSchedule(1000, 3)
    assert [schedule.budget(epoch) for epoch in (0, 1, 3, 4, 7, 31)] == [0, 1000, 1000, 500, 250, 0]
    assert sum(schedule.budget(epoch) for epoch in range(100)) == schedule.total


def test_fees_split_without_loss_and_pots_keep_their_dust() -> None:
    split = split_fees(10_025, 1002, 500, 1000)
    assert split.shares + split.burn + split.royalty + split.net == 10_025
    with pytest.raises(ValueError):
        split_fees(10, 11, 0, 0)
    assert fill_pot(5, 3, 2, 1, 1) == fill_pot(5, 3, 2, 1, 99)
    assert fill_pot(5, 3, 2, 1, 0).carried == 11
    paid, dust = rewards(100, [1, 1, 1])
    assert (paid, dust) == ((33, 33, 33), 1)
    assert rewards(100, []) == ((), 100)


def test_a_journal_takes_back_inner_failures_and_keeps_the_rest() -> None:
    journal = Journal()
    table: Table[str, int] = Table(journal, 0)
    cell = Cell(journal, 1)
    with journal.atomic():
        table["kept"] = 1
        with pytest.raises(NothingToClaim), journal.atomic():
            table["kept"], table["lost"], cell.value = 2, 2, 2
            raise NothingToClaim()
    assert (table["kept"], table["lost"], cell.value) == (1, 0, 1)
    assert "lost" not in table
