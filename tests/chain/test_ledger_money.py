"""Reservations, credit and lines rule by rule: money that backs one promise backs no other, and leaves in time only."""

from __future__ import annotations

import pytest

from chain.contract_errors import (
    EmptyDeposit,
    GatewayInDebt,
    GatewayWindingDown,
    InsufficientBalance,
    InsufficientStake,
    InvalidSignature,
    LengthMismatch,
    LineHeld,
    LinesOpen,
    NotGatewayOwner,
    NothingDue,
    NothingThawing,
    NotStaked,
    StillThawing,
    UnknownGateway,
    UnknownProvider,
    ZeroAmount,
)
from chain.errors import ContractError
from chain.primitives import key_of
from chain.vouchers import PaymentVoucher
from tests.chain.ledger_world import ALICE, BOB, DEV, GARY, MINIMUM, OWNER, World
from tests.chain.spec.escrow import Held
from tests.chain.spec.lines import Line

G, A, B = key_of("g"), key_of("a"), key_of("b")
DELAY = 4
STAKE = 50_000


# --- reservations ---


def test_what_is_free_goes_at_once_and_what_is_reserved_does_not() -> None:
    world = World()
    escrow = world.ledger.escrow
    escrow.deposit(world.by(DEV), 1000)
    escrow.reserve(world.by(DEV), "g", 600)
    with pytest.raises(InsufficientBalance) as raised:
        escrow.withdraw(world.by(DEV), 401)
    assert raised.value.arguments == {"wanted": 401, "available": 400}
    escrow.withdraw(world.by(DEV), 400)
    assert (escrow.free_of(DEV), escrow.available(DEV, G)) == (0, 600)
    assert world.ledger.token.balance_of(DEV) == 10**9 - 600
    assert world.healthy()


def test_a_reservation_backs_the_vouchers_of_one_gateway_only() -> None:
    """Whatever the payer's own gateway takes, and when, is not what is reserved for another."""
    world = World()
    ledger = world.ledger
    ledger.gateways.register_and_stake(world.by(DEV), "own", "", 5000)
    ledger.escrow.deposit_and_reserve(world.by(DEV), "g", 1000)
    with pytest.raises(EmptyDeposit):
        world.redeem(1000, "own")
    assert world.redeem(1000) == 1000
    assert ledger.escrow.credit_of(G) == 1000
    assert ledger.escrow.credit_of(key_of("own")) == 0


def test_a_voucher_that_the_reservation_cannot_pay_is_paid_later() -> None:
    world = World()
    escrow = world.ledger.escrow
    escrow.deposit_and_reserve(world.by(DEV), "g", 300)
    assert world.redeem(1000) == 300
    with pytest.raises(EmptyDeposit):
        world.redeem(1000)
    escrow.deposit_and_reserve(world.by(DEV), "g", 900)
    assert world.redeem(1000) == 700
    with pytest.raises(NothingDue):
        world.redeem(1000)
    assert escrow.credit_of(G) == 1000
    assert escrow.reservation_of(DEV, G).amount == 200


def test_a_reservation_thaws_for_longer_than_a_voucher_of_today_can_wait() -> None:
    world = World()
    escrow = world.ledger.escrow
    escrow.deposit_and_reserve(world.by(DEV), "g", 1000)
    escrow.thaw(world.by(DEV), "g", 800)
    assert escrow.reservation_of(DEV, G) == Held(1000, 800, 1 + DELAY + 1)
    assert escrow.available(DEV, G) == 200
    world.go_to(1 + DELAY, last_block=True)
    with pytest.raises(StillThawing) as raised:
        escrow.withdraw_reserved(world.by(DEV), "g")
    assert raised.value.arguments == {"thaw_end": 6}
    assert world.redeem(600) == 600  # until it is out, vouchers take it
    assert escrow.reservation_of(DEV, G) == Held(400, 400, 6)
    world.block += 1
    assert escrow.withdraw_reserved(world.by(DEV), "g") == 400
    assert escrow.reservation_of(DEV, G) == Held()
    with pytest.raises(NothingThawing):
        escrow.withdraw_reserved(world.by(DEV), "g")


def test_more_thawing_starts_the_clock_again_and_a_cancelled_thaw_is_available() -> None:
    world = World()
    escrow = world.ledger.escrow
    escrow.deposit_and_reserve(world.by(DEV), "g", 1000)
    escrow.thaw(world.by(DEV), "g", 1)
    world.go_to(3)
    with pytest.raises(InsufficientBalance):
        escrow.thaw(world.by(DEV), "g", 1000)
    escrow.thaw(world.by(DEV), "g", 999)
    assert escrow.reservation_of(DEV, G) == Held(1000, 1000, 3 + DELAY + 1)
    escrow.cancel_thaw(world.by(DEV), "g")
    assert escrow.reservation_of(DEV, G) == Held(1000)
    with pytest.raises(NothingThawing):
        escrow.cancel_thaw(world.by(DEV), "g")


def test_only_a_staked_gateway_redeems() -> None:
    """A free gateway could otherwise take its owner's deposit from under another's vouchers."""
    world = World()
    ledger = world.ledger
    ledger.gateways.register(world.by(DEV), "free", "")
    ledger.escrow.deposit_and_reserve(world.by(DEV), "free", 500)
    with pytest.raises(NotStaked):
        world.redeem(500, "free")
    voucher = PaymentVoucher(DEV, key_of("free"), 500)
    good = PaymentVoucher(DEV, G, 10)
    signatures = [world.signed(ledger.escrow.domain, each, DEV) for each in (good, voucher)]
    with pytest.raises(NotStaked):
        ledger.escrow.redeem_batch(world.by(DEV), [good, voucher], signatures)
    ledger.gateway_staking.stake_for_gateway(world.by(DEV), "free", 1)
    assert world.redeem(500, "free") == 500


def test_a_batch_passes_over_what_is_not_due_and_what_is_not_reserved() -> None:
    world = World()
    ledger = world.ledger
    ledger.gateways.register_and_stake(world.by(BOB), "h", "", 5000)
    ledger.escrow.deposit_and_reserve(world.by(DEV), "g", 500)
    world.redeem(100)
    vouchers = [PaymentVoucher(DEV, G, 100), PaymentVoucher(DEV, key_of("h"), 70), PaymentVoucher(DEV, G, 150)]
    signatures = [world.signed(ledger.escrow.domain, each, DEV) for each in vouchers]
    assert ledger.escrow.redeem_batch(world.by(ALICE), vouchers, signatures) == 50
    with pytest.raises(LengthMismatch):
        ledger.escrow.redeem_batch(world.by(ALICE), vouchers, signatures[1:])
    with pytest.raises(InvalidSignature):
        ledger.escrow.redeem_batch(world.by(ALICE), vouchers, [b"", *signatures[1:]])


@pytest.mark.parametrize("method", ["reserve", "deposit_and_reserve", "thaw", "cancel_thaw", "withdraw_reserved"])
def test_nothing_is_reserved_for_a_gateway_that_nobody_has_registered(method: str) -> None:
    world = World()
    arguments = ("nobody",) if method in ("cancel_thaw", "withdraw_reserved") else ("nobody", 0)
    with pytest.raises(UnknownGateway):
        getattr(world.ledger.escrow, method)(world.by(DEV), *arguments)


# --- credit ---


def test_credit_leaves_two_epochs_after_the_windows_and_can_be_taken_until_then() -> None:
    world = World()
    escrow = world.ledger.escrow
    escrow.top_up_credit(world.by(DEV), "g", 10_000)
    with pytest.raises(NotGatewayOwner):
        escrow.thaw_credit(world.by(DEV), "g", 1)
    escrow.thaw_credit(world.by(GARY), "g", 9000)
    assert escrow.credit_state_of(G) == Held(10_000, 9000, 1 + DELAY + 2)
    world.go_to(2)
    world.post(100)  # 2500 wei of fees come from it
    assert escrow.credit_state_of(G) == Held(7500, 7500, 7)
    world.go_to(6, last_block=True)
    with pytest.raises(StillThawing):
        escrow.withdraw_credit(world.by(GARY), "g")
    world.block += 1
    with pytest.raises(NotGatewayOwner):
        escrow.withdraw_credit(world.by(DEV), "g")
    assert escrow.withdraw_credit(world.by(GARY), "g") == 7500
    with pytest.raises(NothingThawing):
        escrow.withdraw_credit(world.by(GARY), "g")
    assert world.healthy()


def test_credit_stays_as_long_as_the_gateway_has_debt() -> None:
    world = World()
    escrow, settlement = world.ledger.escrow, world.ledger.settlement
    world.go_to(3)
    world.omit("a", 3000, 1)  # 75,000 wei of a stake of 50,000
    debt = settlement.debt_of(G)
    assert debt == 25_000
    escrow.top_up_credit(world.by(DEV), "g", 10)  # less than a unit costs
    escrow.thaw_credit(world.by(GARY), "g", 10)
    world.go_to(3 + DELAY + 2)
    with pytest.raises(GatewayInDebt) as raised:
        escrow.withdraw_credit(world.by(GARY), "g")
    assert raised.value.arguments == {"key": G, "debt": debt}
    escrow.top_up_credit(world.by(DEV), "g", debt)
    settlement.collect_debt(world.by(BOB), "g", "a", 1)
    assert settlement.debt_of(G) == 0
    assert escrow.credit_state_of(G) == Held(10, 10, 9)
    assert escrow.withdraw_credit(world.by(GARY), "g") == 10


# --- lines ---


def test_lines_are_cut_from_spare_stake_and_never_from_the_minimum() -> None:
    world = World()
    staking = world.ledger.gateway_staking
    with pytest.raises(InsufficientStake) as raised:
        staking.fund_lines(world.by(GARY), "g", ["a", "b"], [40_000, 9001])
    assert raised.value.arguments == {"wanted": 49_001, "spare": STAKE - MINIMUM}
    staking.fund_lines(world.by(GARY), "g", ["a", "b", "a"], [40_000, 8999, 1])
    assert (staking.line_of(G, A), staking.line_of(G, B)) == (Line(40_001), Line(8999))
    assert staking.effective_stake("g") == MINIMUM
    assert world.ledger.gateways.is_eligible("g", world.block)
    with pytest.raises(InsufficientStake):
        staking.fund_lines(world.by(GARY), "g", ["a"], [1])
    assert world.healthy()


def test_funding_lines_happens_as_a_whole_or_not_at_all() -> None:
    world = World()
    staking = world.ledger.gateway_staking
    attempts: list[tuple[type[ContractError], list[str], list[int]]] = [
        (LengthMismatch, ["a", "b"], [1]),
        (ZeroAmount, ["a", "b"], [1, 0]),
        (UnknownProvider, ["a", "nobody"], [1, 1]),
        (InsufficientStake, ["a", "b"], [1, STAKE]),
    ]
    for error, names, amounts in attempts:
        with pytest.raises(error):
            staking.fund_lines(world.by(GARY), "g", names, amounts)
    with pytest.raises(NotGatewayOwner):
        staking.fund_lines(world.by(BOB), "g", ["a"], [1])
    staking.wind_down_gateways(world.by(GARY), ["g"])
    with pytest.raises(GatewayWindingDown):
        staking.fund_lines(world.by(GARY), "g", ["a"], [1])
    assert staking.line_of(G, A) == Line()
    assert staking.effective_stake("g") == STAKE


def test_a_line_is_released_two_epochs_after_the_windows_and_not_a_block_earlier() -> None:
    world = World()
    staking = world.ledger.gateway_staking
    staking.fund_lines(world.by(GARY), "g", ["a"], [10_000])
    with pytest.raises(NothingThawing):
        staking.release_line(world.by(GARY), "g", "a")
    staking.thaw_line(world.by(GARY), "g", "a", 4000)
    assert staking.line_of(G, A) == Line(10_000, 4000, 1 + DELAY + 2)
    assert staking.guaranteed(G, A) == 6000
    with pytest.raises(InsufficientBalance):
        staking.thaw_line(world.by(GARY), "g", "a", 6001)
    world.go_to(6, last_block=True)
    with pytest.raises(StillThawing):
        staking.release_line(world.by(GARY), "g", "a")
    world.block += 1
    assert staking.release_line(world.by(GARY), "g", "a") == 4000
    assert staking.line_of(G, A) == Line(6000)
    assert staking.effective_stake("g") == STAKE - 6000


def test_a_line_that_a_challenge_holds_is_released_only_after_it() -> None:
    world = World()
    staking, settlement = world.ledger.gateway_staking, world.ledger.settlement
    staking.fund_lines(world.by(GARY), "g", ["a"], [2500])
    staking.thaw_line(world.by(GARY), "g", "a", 2500)  # to be released in epoch 7
    world.go_to(3)
    world.go_to(4)
    world.post(0, 4)  # epoch 3: a is left out
    number = settlement.open_omission_challenge(world.by(ALICE), *world.voucher("a", 80, 3))
    assert staking.line_of(G, A) == Line(2500, 2500, 7, held=2000)
    world.go_to(7)
    assert staking.release_line(world.by(GARY), "g", "a") == 500
    with pytest.raises(LineHeld):
        staking.release_line(world.by(GARY), "g", "a")
    world.go_to(8)
    settlement.resolve_challenge(world.by(BOB), number)
    assert staking.line_of(G, A) == Line(0, 0, 7)
    assert world.healthy()


def test_who_has_lines_or_debt_does_not_unstake() -> None:
    world = World()
    staking, settlement = world.ledger.gateway_staking, world.ledger.settlement
    staking.fund_lines(world.by(GARY), "g", ["b"], [500])
    world.go_to(3)
    world.omit("a", 3000, 1)
    staking.stake_for_gateway(world.by(GARY), "g", 100_000)
    staking.wind_down_gateways(world.by(GARY), ["g"])
    staking.thaw_line(world.by(GARY), "g", "b", 500)
    world.go_to(9)
    with pytest.raises(LinesOpen) as raised:
        staking.unstake_for_gateway(world.by(GARY), "g")
    assert raised.value.arguments == {"key": G, "reserved": 500}
    staking.release_line(world.by(GARY), "g", "b")
    with pytest.raises(GatewayInDebt):
        staking.unstake_for_gateway(world.by(GARY), "g")
    world.ledger.escrow.top_up_credit(world.by(DEV), "g", settlement.debt_of(G))
    settlement.collect_debt(world.by(BOB), "g", "a", 1)
    before = world.ledger.token.balance_of(GARY)
    left = staking.effective_stake("g")
    staking.unstake_for_gateway(world.by(GARY), "g")
    assert world.ledger.token.balance_of(GARY) == before + left
    assert world.healthy()


def test_a_gateway_is_active_down_to_its_last_wei_and_eligible_from_the_minimum_on() -> None:
    world = World()
    gateways, staking = world.ledger.gateways, world.ledger.gateway_staking
    world.go_to(2)
    staking.stake_for_gateway(world.by(GARY), "g", 1)
    staking.fund_lines(world.by(GARY), "g", ["a"], [STAKE + 1 - MINIMUM])
    staking.set_min_gateway_stake(world.by(OWNER), MINIMUM + 1)
    assert gateways.is_active("g")
    assert not gateways.is_eligible("g", world.block)
    staking.set_min_gateway_stake(world.by(OWNER), MINIMUM)
    assert gateways.is_eligible("g", world.block)
    world.go_to(3)
    world.omit("b", 41, 1)  # 1025 wei of the 1000 that no line reserves
    assert staking.effective_stake("g") == 0
    assert not gateways.is_active("g")
