"""What is due for a provider: its steps stay inside their windows, pay for themselves, and keep its books."""

from __future__ import annotations

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st

from mesh.payment.credit.units import ModelPrice
from mesh.payment.settlement.provider_plan import (
    GIVE_UP_EPOCHS,
    Challenge,
    ChallengeOmission,
    ClaimRewards,
    CollectDebt,
    FetchLeaves,
    Lost,
    MarkSafe,
    OpenOmissionChallenge,
    Prove,
    ProviderSlot,
    ProviderView,
    ResolveChallenge,
    SlotId,
    WithdrawPayments,
    WriteOff,
    is_settled,
    plan_provider,
)
from mesh.payment.settlement.windows import Clock, Status

NOW = 1000
UNITS = 100
ONE = ModelPrice(1, 1)
CLOCKS = [Clock(NOW, NOW + seam, delay, 9) for delay in (4, 5) for seam in (0, 1)]
AGO = (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, GIVE_UP_EPOCHS, GIVE_UP_EPOCHS + 1)

units = st.sampled_from([0, 1, 40, 60, UNITS, 2 * UNITS])
challenges = st.builds(
    Challenge, st.integers(0, 9), st.sampled_from([1, UNITS, 2 * UNITS]), st.integers(NOW - 1, NOW + 1), st.booleans()
)
slots = st.builds(
    ProviderSlot,
    st.sampled_from(AGO).map(lambda ago: SlotId("g", "p", 1, NOW - ago)),
    st.sampled_from([0, UNITS]),
    st.sampled_from(Status),
    st.sampled_from([ONE, ModelPrice(0, 1)]),
    leaf=st.none() | units,
    asked=st.booleans(),
    shown=units,
    compensated=units,
    debt=units,
    challenged=units,
    proven=units,
    cover=units,
    challenges=st.lists(challenges, max_size=2, unique_by=lambda each: each.challenge_id).map(tuple),
    safe=units,
    written_off=st.booleans(),
)


# A gateway that was given up long ago has money again.
@example(CLOCKS[0], ProviderSlot(SlotId("g", "p", 1, NOW - 513), 0, Status.NONE, ONE, debt=1, cover=1), 0)
@given(st.sampled_from(CLOCKS), slots, st.sampled_from([0, 1, 50, 1000]))
def test_every_step_is_inside_its_window_and_worth_it(clock: Clock, slot: ProviderSlot, floor: int) -> None:
    view = ProviderView(clock, (slot,), floor=floor)
    epoch, posted = slot.id.epoch, slot.status is Status.POSTED
    steps = plan_provider(view)
    kinds = [type(step) for step in steps]
    for step in steps:
        assert clock.now > epoch
        match step:
            case ChallengeOmission(_, leaf):
                assert clock.upcoming <= epoch + clock.delay
                assert (leaf == slot.leaf and leaf) if posted else (leaf == 0 and clock.now >= epoch + 2)
                missing = slot.units - leaf - slot.compensated
                assert missing > slot.debt and missing >= floor and slot.price.price
            case OpenOmissionChallenge():
                assert posted and not slot.leaf and clock.upcoming <= epoch + clock.delay - 1
                hidden = slot.units - slot.shown - slot.compensated
                assert slot.units > slot.challenged and hidden > slot.debt
                assert slot.price.fee(hidden) > floor + 1  # its bond of a tenth comes on top
                assert slot.leaf == 0 or (slot.asked and clock.now >= epoch + 2)
            case ResolveChallenge(_, number):
                (found,) = (each for each in slot.challenges if each.challenge_id == number)
                assert clock.now > found.answer_by
                brings = found.units - slot.shown - slot.compensated
                assert found.ours or (slot.price.price and brings >= max(1, floor))
            case CollectDebt(_, owed):
                assert slot.price.price and owed == slot.debt and min(owed, slot.cover) >= max(1, floor)
                assert ChallengeOmission not in kinds  # which pays for the debt as well
            case FetchLeaves():
                assert posted and slot.leaf is None
            case Prove(_, leaf):
                assert posted and leaf == slot.leaf and leaf > slot.proven and clock.now >= epoch + clock.delay
            case MarkSafe(_, safe):
                assert slot.safe < safe <= slot.units
                assert safe <= slot.compensated + ((slot.leaf or 0) if posted else 0)
            case WriteOff():
                assert clock.now > epoch + clock.delay and slot.missing and not slot.written_off
            case Lost(_, lost):
                assert clock.now > epoch + clock.delay and lost == slot.missing > 0
            case _:
                raise AssertionError(step)
    assert kinds.count(ResolveChallenge) <= 1 + sum(each.ours for each in slot.challenges)
    if is_settled(view, slot):
        assert all(isinstance(step, (Lost, MarkSafe)) for step in steps)


def test_all_kinds_of_steps_are_planned() -> None:
    clock = CLOCKS[0]
    found = SlotId("g", "p", 1, NOW - 2)
    old = SlotId("g", "p", 1, NOW - 5)

    def planned(slot: ProviderSlot) -> set[type]:
        return {type(step) for step in plan_provider(ProviderView(clock, (slot,)))}

    posted, none = Status.POSTED, Status.NONE
    assert planned(ProviderSlot(found, UNITS, none, ONE)) == {ChallengeOmission}
    assert planned(ProviderSlot(found, UNITS, posted, ONE)) == {FetchLeaves}
    assert planned(ProviderSlot(found, UNITS, posted, ONE, asked=True)) == {FetchLeaves, OpenOmissionChallenge}
    assert planned(ProviderSlot(found, UNITS, posted, ONE, leaf=40)) == {ChallengeOmission, MarkSafe}
    assert planned(ProviderSlot(found, UNITS, posted, ONE, leaf=UNITS, safe=UNITS)) == set()
    assert planned(ProviderSlot(old, UNITS, posted, ONE, leaf=UNITS, safe=UNITS)) == {Prove}
    assert planned(ProviderSlot(old, UNITS, posted, ONE, leaf=UNITS, safe=UNITS, proven=40)) == {Prove}
    assert planned(ProviderSlot(old, UNITS, none, ONE, compensated=40, debt=60, safe=40, cover=9)) == {CollectDebt}
    assert planned(ProviderSlot(old, UNITS, none, ONE, compensated=40, debt=60, safe=40)) == set()
    assert planned(ProviderSlot(old, UNITS, none, ONE)) == {WriteOff, Lost}


@given(slots, st.sampled_from(CLOCKS))
def test_a_gateway_in_our_debt_gets_no_more_credit_until_it_has_paid(slot: ProviderSlot, clock: Clock) -> None:
    ago = clock.now - slot.id.epoch
    if slot.debt and slot.missing and ago <= GIVE_UP_EPOCHS:
        assert WriteOff not in [type(step) for step in plan_provider(ProviderView(clock, (slot,)))]


def test_no_challenge_is_opened_for_less_than_its_bond_and_the_floor() -> None:
    for price, floor, bond_bps in product((1, 2, 10, 11, 100), (0, 5, 50, 500), (100, 1000, 5000)):
        slot = ProviderSlot(SlotId("g", "p", 1, NOW - 2), 10, Status.POSTED, ModelPrice(price, 1), leaf=0, asked=True)
        view = ProviderView(CLOCKS[0], (slot,), floor=floor, bond_bps=bond_bps)
        fee = 10 * price
        worth = fee > fee * bond_bps // 10_000 + floor
        assert (OpenOmissionChallenge(slot.id) in plan_provider(view)) == worth


def test_claims_wait_for_the_delay_and_are_left_out_unless_asked_for() -> None:
    for clock, last, amount, asked in product(CLOCKS, range(NOW - 8, NOW + 1), (0, 5), (False, True)):
        due = asked and amount > 0 and last + clock.delay <= clock.now
        rewards = (("p", 1, last, amount),)
        assert plan_provider(ProviderView(clock, (), rewards, claims=asked)) == [ClaimRewards("p", 1, last)] * due


def test_payments_are_withdrawn_when_they_are_worth_it() -> None:
    for payments, floor in product((0, 1, 9, 10, 11), (0, 10)):
        steps = plan_provider(ProviderView(CLOCKS[0], payments=payments, floor=floor))
        assert steps == [WithdrawPayments(payments)] * (payments > 0 and payments >= floor)
