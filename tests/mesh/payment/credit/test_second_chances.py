"""An honest gateway signs for nothing that it never had: that must not part it from a provider for ever."""

from __future__ import annotations

from mesh.identity import Identity
from mesh.payment.credit.line import GENESIS, EpochTab, Pair, ProviderTab
from mesh.payment.credit.store import PaymentJournal
from tests.mesh.payment.money import Money

PAIR = Pair("gateway", "provider", 5)


def tab_with(*, credit: int, done: int) -> ProviderTab:
    tab = ProviderTab(PAIR, credit, epoch=7)
    tab.begin(done)
    tab.finish(done, done)
    tab.claim()
    return tab


def test_what_was_claimed_before_a_restart_is_claimed_still_but_not_waited_for() -> None:
    journal = PaymentJournal(None)
    journal.record_receipt("held", PAIR, "peer", 7, 1, 400, bytes(32), b"s" * 65)
    journal.record_voucher("held", PAIR, "peer", 7, 300, b"s" * 65)
    money = Money(journals={"provider": journal})
    provider = money.provider(Identity.generate(), "provider", "00" * 32, blocks=2)

    tab, _ = provider.collector._load(PAIR)

    assert (tab.claimed, tab.unpaid) == (100, 0)
    assert tab.has_room(tab.credit)


def test_a_voucher_for_what_was_doubtful_leaves_no_room_beyond_the_credit() -> None:
    tab = ProviderTab(PAIR, 100, epoch=7, epochs={7: EpochTab(400, 300)}, doubtful=100)
    tab.begin(80)
    tab.finish(80, 80)
    tab.claim()
    assert tab.unpaid == 80

    tab.accept(7, 480)
    assert (tab.claimed, tab.doubtful, tab.unpaid) == (0, 0, 0)
    tab.begin(100)
    tab.finish(100, 100)

    assert tab.unpaid == 100 and not tab.has_room(1)


def test_who_used_up_the_credit_gets_another_chance_each_time_later() -> None:
    tab = tab_with(credit=100, done=100)
    waits = []
    for _ in range(4):
        assert not tab.has_room(1)
        waits.append(tab.pardon_after(10.0))
        tab.pardon()
        assert tab.unpaid == 0 and tab.claimed > 0
        tab.begin(100)
        tab.finish(100, 100)
        tab.claim()

    assert waits == [10.0, 20.0, 40.0, 80.0]


def test_eight_credits_paid_make_up_for_one_pardon() -> None:
    tab = tab_with(credit=100, done=100)
    tab.pardon()
    assert tab.pardon_after(10.0) == 20.0
    tab.paid = 799
    assert tab.pardon_after(10.0) == 20.0
    tab.paid = 800
    assert tab.pardon_after(10.0) == 10.0


def test_a_receipt_after_a_restart_goes_on_with_the_claim() -> None:
    tab = ProviderTab(PAIR, 100, epoch=7, epochs={7: EpochTab(400, 300)}, sequence=3, link=GENESIS, doubtful=100)
    tab.begin(10)
    tab.finish(10, 10)

    claim = tab.claim()

    assert claim is not None and (claim.sequence, claim.units) == (4, 410)
