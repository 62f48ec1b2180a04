"""An honest gateway signs for nothing that it never had: that must not part it from a provider for ever."""

from __future__ import annotations

import pytest

from mesh.errors import ProtocolViolation
from mesh.identity import Identity
from mesh.payment.credit.cover import Change
from mesh.payment.credit.line import GENESIS, CreditLine, EpochUnits, Pair
from mesh.payment.credit.store import PaymentJournal
from tests.mesh.payment.money import Money

PAIR = Pair("gateway", "provider", 5)


def line_with(*, credit: int, done: int) -> CreditLine:
    line = CreditLine(PAIR, credit, epoch=7)
    line.begin(done)
    line.finish(done, done)
    line.claim()
    return line


def test_what_was_claimed_before_a_restart_is_claimed_still_but_not_waited_for() -> None:
    journal = PaymentJournal(None)
    journal.record_receipt("held", PAIR, "peer", 7, 1, 400, bytes(32), b"s" * 65)
    journal.record_voucher("held", PAIR, "peer", 7, 300, b"s" * 65)
    money = Money(journals={"provider": journal})
    provider = money.provider(Identity.generate(), "provider", "00" * 32, blocks=2)

    line, _ = provider.collector._load(PAIR)

    assert (line.claimed, line.unpaid) == (100, 0)
    assert line.has_room(line.credit)


def test_a_voucher_for_what_was_doubtful_leaves_no_room_beyond_the_credit() -> None:
    line = CreditLine(PAIR, 100, epoch=7, epochs={7: EpochUnits(400, 300)}, doubtful=100)
    line.begin(80)
    line.finish(80, 80)
    line.claim()
    assert line.unpaid == 80

    line.accept(7, 480)
    line.secure(Change(gained=180, uncovered=0, lost=0, outstanding=0))
    assert (line.claimed, line.doubtful, line.unpaid) == (0, 0, 0)
    line.begin(100)
    line.finish(100, 100)

    assert line.unpaid == 100 and not line.has_room(1)


def test_who_used_up_the_credit_gets_another_chance_each_time_later() -> None:
    line = line_with(credit=100, done=100)
    waits = []
    for _ in range(4):
        assert not line.has_room(1)
        waits.append(line.pardon_after(10.0))
        line.pardon()
        assert line.unpaid == 0 and line.claimed > 0
        line.begin(100)
        line.finish(100, 100)
        line.claim()

    assert waits == [10.0, 20.0, 40.0, 80.0]


def test_eight_credits_paid_make_up_for_one_pardon() -> None:
    line = line_with(credit=100, done=100)
    line.pardon()
    assert line.pardon_after(10.0) == 20.0
    line.paid = 799
    assert line.pardon_after(10.0) == 20.0
    line.paid = 800
    assert line.pardon_after(10.0) == 10.0


def test_a_receipt_after_a_restart_goes_on_with_the_claim() -> None:
    line = CreditLine(PAIR, 100, epoch=7, epochs={7: EpochUnits(400, 300)}, sequence=3, link=GENESIS, doubtful=100)
    line.begin(10)
    line.finish(10, 10)

    claim = line.claim()

    assert claim is not None and (claim.sequence, claim.units) == (4, 410)


def test_late_vouchers_pay_for_what_was_claimed_anew_and_for_nothing_else() -> None:
    line = line_with(credit=1000, done=100)
    line.turn(8)
    line.claim()
    line.begin(50)
    line.finish(50, 50)
    assert line.unpaid == 150

    assert line.check(7, 100) == 100
    line.accept(7, 100)
    line.secure(Change(gained=100, uncovered=0, lost=0, outstanding=0))
    assert line.unpaid == 50
    with pytest.raises(ProtocolViolation):
        line.check(7, 101)


def test_what_is_claimed_anew_at_a_higher_price_is_fewer_units_and_a_late_voucher_takes_back_as_many() -> None:
    line = line_with(credit=1000, done=100)
    line.turn(8, {7: 1, 8: 10})
    assert line.unpaid == 10

    line.accept(7, 50)
    line.secure(Change(gained=50, uncovered=0, lost=0, outstanding=0))
    assert line.unpaid == 5


def test_what_is_claimed_anew_at_a_lower_price_is_as_many_units() -> None:
    line = line_with(credit=1000, done=100)
    line.turn(8, {7: 10, 8: 1})

    assert line.unpaid == 100
