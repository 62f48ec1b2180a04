"""What a gateway can take from an honest provider: its unsecured credit, whatever it promises and however it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from chain.wallet import Account
from mesh.errors import ProtocolViolation
from mesh.identity import Identity
from mesh.payment.credit import collector as collector_module
from mesh.payment.credit.line import Pair
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import CreditTerms, NotAccepted
from mesh.wire.paying import Unwelcome, Welcome
from tests.mesh.payment.credit.actors import BLOCKS, DIGEST, HandGateway
from tests.mesh.payment.money import MODEL_ID, Money
from tests.mesh.swarm_in_memory import until

pytestmark = pytest.mark.timeout(60)

CREDIT = 64
"""Tokens that «ann» works without security."""
TOKEN = 10**12
"""What one costs."""
ANN = Pair("gate", "ann", MODEL_ID)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(collector_module, "HASTE_SECONDS", 0.005)
    monkeypatch.setattr(collector_module, "TICK_SECONDS", 0.005)


@asynccontextmanager
async def ann_at_work(money: Money, *, identity: Identity | None = None) -> AsyncIterator[HandGateway]:
    """The provider «ann» with its real books, and a gateway by hand that it has welcomed."""
    ann = money.provider(identity or Identity.generate(), "ann", DIGEST, BLOCKS)
    running = asyncio.create_task(ann.collector.run())
    gate = HandGateway(money, ann.collector)
    assert isinstance(await gate.hello(), Welcome)
    try:
        yield gate
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def money_with(line: int, *, journal: PaymentJournal | None = None) -> Money:
    money = Money(terms=CreditTerms(tokens=CREDIT, pause_seconds=0.2, receipt_seconds=0.0))
    money.chain.lines["gate", "ann"] = line
    if journal is not None:
        money.journals["ann"] = journal
    return money


def secured(money: Money) -> int:
    """Wei that «ann» would be paid from the line for what it holds, if nothing else came."""
    exposures = money.journal("ann").exposures()
    owed = sum(money.chain.tariff_in(each.epoch).fee(each.vouched - each.safe) for each in exposures)
    return min(owed, money.chain.lines["gate", "ann"])


async def test_a_gateway_without_a_line_is_welcome_and_gets_the_credit_and_no_more() -> None:
    money = money_with(0)
    async with ann_at_work(money) as gate:
        done = await gate.work_and_pay(5000)

        assert done == CREDIT
        (slot,) = money.journal("ann").slots("held")
        assert slot.voucher_units == CREDIT * BLOCKS, "what it signed is kept"


@pytest.mark.parametrize("line", [0, 1, 100 * TOKEN, 1000 * TOKEN + 1])
async def test_a_gateway_that_signs_without_end_and_pays_nobody_gets_its_line_and_the_credit(line: int) -> None:
    """The exit scam: vouchers for everything, and nothing behind them but the line."""
    money = money_with(line)
    async with ann_at_work(money) as gate:
        done = await gate.work_and_pay(5000)

        assert done * TOKEN - secured(money) <= CREDIT * TOKEN
        assert done >= line // TOKEN, "all that is secured is served"
        with pytest.raises(NotAccepted, match=r"fund it .*fund-line gate ann"):
            await until(lambda: gate.customer.dunning.dropped)
            gate.work(1)
        assert "line" in gate.refusals


@pytest.mark.parametrize("signs", [False, True])
async def test_a_prompt_larger_than_the_credit_is_risked_once_and_no_second_one_beside_it(signs: bool) -> None:
    money = money_with(0)
    money.terms = CreditTerms(tokens=CREDIT, pause_seconds=60.0, receipt_seconds=0.0)
    async with ann_at_work(money) as gate:
        prompt = 5 * CREDIT
        for expected in (prompt, 0, 0):
            one, other = (gate.collector.open(gate.customer, prompt, prompt, BLOCKS) for _ in range(2))
            done = 0
            while done < prompt and one.has_room(done + 16):
                units = one.begin(done + 16)
                gate.collector.finish(one, units, units)
                done += 16
                assert not other.has_room(16)
            assert done == expected
            one.close(done)
            other.close(0)
            if signs and done:
                receipt = await gate.receipt()
                await gate.pay(receipt.epoch, receipt.units)
            assert gate.work(100) == 0


async def test_work_goes_on_once_the_line_is_funded() -> None:
    money = money_with(100 * TOKEN)
    async with ann_at_work(money) as gate:
        assert await gate.work_and_pay(5000) < 200
        money.chain.lines["gate", "ann"] = 400 * TOKEN
        await until(lambda: gate.customer.line.uncovered == 0)

        assert gate.work(10) == 10


async def test_work_goes_on_once_earlier_work_is_safe() -> None:
    money = money_with(100 * TOKEN)
    async with ann_at_work(money) as gate:
        await gate.work_and_pay(5000)
        money.chain.epoch += 1
        await until(lambda: gate.customer.line.epoch == 8)
        assert gate.work(1) == 0

        money.journal("ann").mark_safe(ANN, 7)
        await until(lambda: gate.customer.line.uncovered == 0)

        assert await gate.work_and_pay(100) == 100


async def test_vouchers_of_several_epochs_share_one_line() -> None:
    money = money_with(100 * TOKEN)
    async with ann_at_work(money) as gate:
        done = 0
        for _ in range(4):
            done += await gate.work_and_pay(60)
            money.chain.epoch += 1
            await until(lambda: gate.customer.line.epoch == money.chain.epoch)

        assert done * TOKEN - secured(money) <= CREDIT * TOKEN


async def test_a_line_that_thaws_covers_nothing_more_and_what_counted_stays_counted() -> None:
    money = money_with(1000 * TOKEN)
    async with ann_at_work(money) as gate:
        assert await gate.work_and_pay(200) == 200
        money.chain.lines["gate", "ann"] = 0
        await until(lambda: gate.customer.guarantee == 0)
        assert gate.customer.line.unpaid == 0

        assert await gate.work_and_pay(5000) == CREDIT


async def test_what_became_safe_is_not_counted_twice_over_a_line_that_paid_for_it() -> None:
    """Compensation empties the line: an older answer about it must not count beside the work being safe."""
    money = money_with(100 * TOKEN)
    async with ann_at_work(money) as gate:
        await gate.work_and_pay(5000)
        asked: list[float] = []
        guarantee = money.chain.guarantee

        async def noting(gateway: str, provider: str, *, since: float = 0.0) -> int:
            asked.append(since)
            return await guarantee(gateway, provider, since=since)

        money.chain.guarantee = noting  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        money.journal("ann").mark_safe(ANN, 7, 50)
        await until(lambda: gate.customer.promises[7].safe == 50)

        assert max(asked) >= began


@pytest.mark.parametrize("how", ["unstaked", "another key", "silent"])
async def test_a_gateway_that_is_no_longer_what_it_was_is_not_served_from_that_moment(how: str) -> None:
    money = money_with(10**24)
    dropped: list[object] = []
    async with ann_at_work(money) as gate:
        gate.collector.drop = dropped.append
        assert await gate.work_and_pay(100) == 100
        match how:
            case "unstaked":
                money.chain.barred.add("gate")
            case "another key":
                money.chain.gateways["gate"] = Account.create().address
            case _:
                money.chain.silent = True
        await until(lambda: gate.customer.barred is not None)

        assert not gate.customer.has_room(1)
        with pytest.raises(NotAccepted):
            gate.collector.open(gate.customer, 10, 10, BLOCKS)
        await until(lambda: gate.customer in dropped)
        assert gate.refusals == ["not_accepted"]
        assert money.journal("ann").exposures()[0].vouched == 100 * BLOCKS, "what it signed can still be enforced"

        money.chain.barred.clear()
        money.chain.gateways["gate"] = gate.account.address
        money.chain.silent = False
        await until(lambda: gate.customer.barred is None)
        assert await gate.work_and_pay(100) == 100


async def test_after_a_change_of_keys_each_epoch_is_signed_by_its_own_key() -> None:
    money = money_with(10**24)
    async with ann_at_work(money) as gate:
        old, new = gate.account, Account.create()
        gate.work(20)
        await gate.receipt()
        money.chain.epoch, money.chain.gateways["gate"] = 8, new.address
        money.chain.signers["gate", 7] = old.address
        await gate.pay(7, 20 * BLOCKS)
        assert gate.customer.line.paid == 20 * BLOCKS, "the last epoch's key signs for the last epoch"

        gate.account = new
        assert isinstance(await gate.hello(), Welcome)
        gate.work(20)
        receipt = await gate.receipt()
        with pytest.raises(ProtocolViolation):
            await gate.pay(receipt.epoch, receipt.units, account=old)
        await gate.pay(receipt.epoch, receipt.units)
        assert gate.customer.line.paid == 40 * BLOCKS


async def test_a_voucher_for_an_epoch_before_the_last_does_not_count() -> None:
    money = money_with(10**24)
    async with ann_at_work(money) as gate:
        gate.work(20)
        await gate.receipt()
        money.chain.epoch += 2
        await gate.pay(7, 20 * BLOCKS)

        assert gate.customer.line.paid == 0
        assert not [slot for slot in money.journal("ann").slots("held") if slot.voucher_units]


async def test_dear_work_is_not_paid_for_with_vouchers_of_the_cheaper_epoch_before() -> None:
    money = money_with(10**24)
    money.chain.prices = {1: 1, 8: 1000}
    async with ann_at_work(money) as gate:
        gate.work(20)
        await gate.receipt()
        money.chain.epoch = 8
        await until(lambda: gate.customer.line.epoch == 8)
        gate.work(30)
        await gate.receipt()
        with pytest.raises(ProtocolViolation, match="were claimed"):
            await gate.pay(7, 20 * BLOCKS + 1)

        await gate.pay(7, 20 * BLOCKS)
        assert gate.customer.line.unpaid == 30 * BLOCKS, "what was claimed in its epoch may be paid there"


async def test_a_provider_that_starts_again_counts_no_more_than_the_line_either() -> None:
    journal = PaymentJournal(None)
    money = money_with(100 * TOKEN, journal=journal)
    done = 0
    for _ in range(3):
        async with ann_at_work(money) as gate:
            done += await gate.work_and_pay(5000)

    assert done * TOKEN - secured(money) <= CREDIT * TOKEN
    journal.close()


async def test_a_gateway_that_comes_back_as_another_peer_goes_on_with_its_debts() -> None:
    money = money_with(0)
    async with ann_at_work(money) as gate:
        assert await gate.work_and_pay(5000) == CREDIT
        gate.collector.leave(gate.identity.peer_id, gate.tell)
        again = HandGateway(money, gate.collector)
        assert isinstance(await again.hello(), Welcome)

        assert not again.customer.has_room(1)


async def test_one_peer_that_is_two_gateways_in_turn_gets_no_credit_twice() -> None:
    money = money_with(0)
    money.chain.lines["other", "ann"] = 0
    async with ann_at_work(money) as gate:
        other = HandGateway(money, gate.collector, name="other", identity=gate.identity)
        assert [await gate.work_and_pay(5000), await gate.work_and_pay(5000)] == [CREDIT, 0]
        assert isinstance(await other.hello(), Welcome)
        assert [await other.work_and_pay(5000), await other.work_and_pay(5000)] == [CREDIT, 0]
        for _ in range(3):
            for one in (gate, other):
                assert isinstance(await one.hello(), Welcome)
                assert not one.customer.has_room(1)


async def test_what_came_to_nothing_is_waited_for_like_what_was_never_vouched_for() -> None:
    money = money_with(0)
    async with ann_at_work(money) as gate:
        assert await gate.work_and_pay(5000) == CREDIT
        money.chain.epoch += 9
        money.journal("ann").write_off(ANN, 7)
        await until(lambda: gate.customer.line.lost > 0)

        assert (gate.customer.line.lost, gate.customer.line.uncovered) == (CREDIT * BLOCKS, 0)
        assert not gate.customer.has_room(1)


async def test_work_that_is_claimed_late_is_claimed_at_the_price_of_its_epoch() -> None:
    money = money_with(10**24)
    money.chain.prices = {1: 100, 8: 1000}
    async with ann_at_work(money) as gate:
        await until(lambda: gate.collector._prices.keys() >= {7, 8})
        gate.work(50)
        gate.told.clear()
        money.chain.epoch = 8
        await until(lambda: gate.customer.line.epoch == 8)
        receipt = await gate.receipt()

        assert (receipt.epoch, receipt.units) == (8, 5 * BLOCKS)


async def test_prompts_that_are_called_resumed_make_no_bill_a_ninth_smaller() -> None:
    """A replay after a failure is free; a gateway that calls every prompt one gets little by it."""
    money = money_with(10**24)
    async with ann_at_work(money) as gate:
        free = paid = 0
        for _ in range(60):
            paid += await gate.work_and_pay(40)
            with suppress(NotAccepted):
                bill = gate.collector.open(gate.customer, 1, 40, BLOCKS)
                units = bill.begin(39)
                gate.collector.finish(bill, units, units)
                free += 39
        assert 0 < free <= paid / 8 + 4 * CREDIT


async def test_a_session_that_ran_nothing_replayed_nothing() -> None:
    money = money_with(10**24)
    async with ann_at_work(money) as gate:
        for _ in range(100):
            gate.collector.open(gate.customer, 1, 40, BLOCKS).close(0)
        assert gate.customer.replayed == 0


async def test_books_are_kept_for_a_bounded_number_of_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "MAX_CUSTOMERS", 3)
    money = money_with(10**24)
    async with ann_at_work(money) as gate:
        others = [HandGateway(money, gate.collector, name=f"gate-{number}") for number in range(4)]
        for other in others[:2]:
            assert isinstance(await other.hello(), Welcome)
        assert isinstance(await others[2].hello(), Unwelcome)
        gate.collector.leave(others[0].identity.peer_id, others[0].tell)

        assert isinstance(await others[2].hello(), Welcome)
        assert len(gate.collector._customers) == 3
