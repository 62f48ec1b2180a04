"""How long a provider waits for its money: missing vouchers are pardoned in time, a line that is too short is not."""

from __future__ import annotations

from mesh.payment.credit.dunning import NOTICE_SECONDS, Act, Debt, Dunning

VOUCHERS = Debt(awaited=64, uncovered=0, credit=64, barred=False)
LINE = Debt(awaited=0, uncovered=64, credit=64, barred=False)
BARRED = Debt(awaited=0, uncovered=0, credit=64, barred=True)


def step(dunning: Dunning, now: float, debt: Debt) -> list[Act]:
    return dunning.step(now, debt, pause=10.0, pardon_after=20.0)


def test_a_gateway_that_does_not_sign_is_dropped_after_the_pause_and_pardoned_later() -> None:
    dunning = Dunning()
    dunning.stall(100.0)

    assert step(dunning, 110.0, VOUCHERS) == []
    assert step(dunning, 110.1, VOUCHERS) == [Act.DROP] and dunning.dropped
    assert step(dunning, 130.0, VOUCHERS) == []
    assert step(dunning, 130.2, VOUCHERS) == [Act.PARDON] and not dunning.dropped


def test_a_gateway_whose_line_is_too_short_is_told_at_once_and_again_and_is_never_pardoned() -> None:
    dunning = Dunning()
    dunning.stall(100.0)

    assert step(dunning, 100.0, LINE) == [Act.NOTICE]
    assert step(dunning, 100.1, LINE) == []
    assert step(dunning, 100.0 + NOTICE_SECONDS, LINE) == [Act.NOTICE]
    assert step(dunning, 110.2, LINE) == [Act.NOTICE, Act.DROP]
    assert Act.PARDON not in [act for now in range(111, 2000) for act in step(dunning, float(now), LINE)]


def test_money_ends_the_dunning() -> None:
    dunning = Dunning()
    dunning.stall(100.0)
    step(dunning, 120.0, LINE)
    dunning.pay()

    assert not dunning.dropped
    assert step(dunning, 200.0, Debt(0, 0, 64, False)) == []


def test_one_that_was_dropped_and_owes_nothing_any_more_may_come_again() -> None:
    dunning = Dunning()
    dunning.stall(100.0)
    step(dunning, 111.0, VOUCHERS)

    assert step(dunning, 140.0, Debt(0, 0, 64, False)) == [Act.PARDON]


def test_sessions_of_one_that_may_not_be_served_end_at_once() -> None:
    assert step(Dunning(), 0.0, BARRED) == [Act.DROP]
