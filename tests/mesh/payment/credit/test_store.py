"""The journal of payments: what it keeps, what it forgets, and that it does not grow with receipts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import Exposure, PaymentJournal, Sealed

ANN, BOB = Pair("gate", "ann", 5), Pair("gate", "bob", 5)
SIGNATURE = b"s" * 65


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[PaymentJournal]:
    with PaymentJournal(tmp_path / "journal.sqlite") as opened:
        yield opened


def hold(journal: PaymentJournal, pair: Pair, epoch: int, units: int) -> None:
    journal.record_voucher("held", pair, "peer", epoch, units, SIGNATURE)


def test_a_held_voucher_is_an_exposure_until_all_of_it_is_safe(journal: PaymentJournal) -> None:
    hold(journal, ANN, 7, 100)
    journal.mark_safe(ANN, 7, 40)
    assert journal.exposures(ANN) == [Exposure(ANN, 7, 100, 40, False)]

    journal.mark_safe(ANN, 7, 30)
    assert journal.exposures(ANN)[0].safe == 40, "what is safe stays so"
    journal.mark_safe(ANN, 7)
    assert journal.exposures() == []

    hold(journal, ANN, 7, 130)
    assert journal.exposures() == [Exposure(ANN, 7, 130, 100, False)], "a higher voucher came after"


def test_no_more_is_safe_than_is_vouched_for(journal: PaymentJournal) -> None:
    hold(journal, ANN, 7, 100)
    journal.mark_safe(ANN, 7, 10**6)

    (slot,) = journal.slots("held", pair=ANN)
    assert slot.safe_units == 100


def test_marks_are_for_the_slot_that_they_name(journal: PaymentJournal) -> None:
    for pair in (ANN, BOB):
        for epoch in (7, 8):
            hold(journal, pair, epoch, 100)
    journal.record_voucher("issued", ANN, "peer", 7, 100, SIGNATURE)
    journal.mark_safe(ANN, 7)
    journal.write_off(BOB, 8)

    assert [(each.pair, each.epoch, each.written_off) for each in journal.exposures()] == [
        (BOB, 7, False),
        (ANN, 8, False),
        (BOB, 8, True),
    ]
    assert [slot.safe_units for slot in journal.slots("issued")] == [0]


def test_five_thousand_receipts_of_two_epochs_are_three_rows() -> None:
    with PaymentJournal(None) as journal:
        for number in range(1, 5001):
            journal.record_receipt("issued", ANN, "peer", 7 + number % 2, number, number, bytes(32), SIGNATURE)
        tables = ("receipts", "slots", "unsigned")
        rows = sum(journal._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables)
        last = journal.last_receipt("issued", ANN)
    assert rows == 3
    assert last is not None and (last.sequence, last.units) == (5000, 5000)


def test_old_epochs_are_forgotten_but_no_voucher_that_something_may_still_come_for(journal: PaymentJournal) -> None:
    for epoch in range(1, 8):
        hold(journal, ANN, epoch, 100)
        journal.record_voucher("issued", BOB, "peer", epoch, 100, SIGNATURE)
        journal.seal("gate", epoch)
    journal.mark_safe(ANN, 2)
    journal.mark_safe(ANN, 3, 50)
    journal.write_off(ANN, 4)

    journal.prune(6)

    assert [slot.epoch for slot in journal.slots("held")] == [1, 3, 5, 6, 7]
    assert [slot.epoch for slot in journal.slots("issued")] == [6, 7]
    assert [journal.is_sealed("gate", epoch) for epoch in (5, 6)] == [False, True]


def test_a_gateway_knows_again_what_it_counted_and_signed(tmp_path: Path) -> None:
    with PaymentJournal(tmp_path / "journal.sqlite") as journal:
        journal.record_receipt("issued", ANN, "peer", 7, 1, 90, bytes(32), SIGNATURE, unsigned={6: 5, 7: 100})
        journal.record_voucher("issued", ANN, "peer", 7, 90, SIGNATURE, unsigned={6: 0, 7: 15})
        journal.record_voucher("issued", ANN, "peer", 8, 10, SIGNATURE)
        journal.record_voucher("issued", BOB, "peer", 6, 1, SIGNATURE)
    with PaymentJournal(tmp_path / "journal.sqlite") as journal:
        assert journal.unsigned(ANN) == {7: 15}
        assert journal.unsigned(BOB) == {}
        assert journal.signed("gate", 7) == {ANN: {7: 90, 8: 10}}
        assert journal.signed("another", 1) == {}


def test_a_voucher_that_is_refused_changes_nothing(journal: PaymentJournal) -> None:
    journal.record_voucher("issued", ANN, "peer", 7, 90, SIGNATURE, unsigned={7: 15})
    journal.seal("gate", 7)

    with pytest.raises(Sealed):
        journal.record_voucher("issued", ANN, "peer", 7, 95, SIGNATURE, unsigned={7: 10})
    assert journal.unsigned(ANN) == {7: 15}


def test_what_providers_say_of_short_lines_is_noted_until_they_are_funded(journal: PaymentJournal) -> None:
    for _ in range(3):
        journal.note("gate", "ann")
    journal.note("gate", "bob")
    journal.forget_notice("gate", "bob")

    assert journal.notices("gate") == {"ann"}
    assert journal.notices("another") == frozenset()
