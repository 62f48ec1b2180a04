"""The disk of a gateway's or a provider's books is full: what must be written waits, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh.identity import Identity
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import CreditTerms, NotAccepted
from mesh.wire.paying import Receipt, Welcome
from tests.full_disk import no_room
from tests.mesh.payment.credit.actors import BLOCKS, DIGEST, HandGateway, HandProvider
from tests.mesh.payment.money import Money
from tests.mesh.swarm_in_memory import until

pytestmark = pytest.mark.timeout(60)


async def test_a_gateway_without_room_signs_nothing_and_then_all_that_was_claimed(tmp_path: Path) -> None:
    money = Money()
    mal = HandProvider(money)
    with PaymentJournal(tmp_path / "gate.sqlite") as journal:
        money.journals["gate"] = journal
        async with asyncio.TaskGroup() as tasks:
            issuer = money.gateway(Identity.generate(), "gate")(tasks)
            await mal.meet(issuer)
            issuer.accrue(mal.peer, 100)
            issuer.receipt(mal.peer, mal.receipt(7, 30))
            await until(lambda: mal.signed(7) == 30)
            with no_room():
                issuer.receipt(mal.peer, mal.receipt(7, 60))
                await asyncio.sleep(0.3)
                issuer.receipt(mal.peer, mal.receipt(7, 80))
                await asyncio.sleep(0.3)
                assert mal.signed(7) == 30, "a voucher that is not written down is not sent"
            await until(lambda: mal.signed(7) == 80)
            (slot,) = journal.slots("issued")
            assert (slot.voucher_units, slot.receipt_units) == (80, 80)
            issuer.leave(mal.peer)


async def test_a_provider_without_room_gives_no_receipt_and_opens_no_session_until_there_is(tmp_path: Path) -> None:
    money = Money(terms=CreditTerms(tokens=64, pause_seconds=5.0, receipt_seconds=0.02))
    with PaymentJournal(tmp_path / "ann.sqlite") as journal:
        money.journals["ann"] = journal
        ann = money.provider(Identity.generate(), "ann", DIGEST, BLOCKS)
        gate = HandGateway(money, ann.collector)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(ann.collector.run())
            assert isinstance(await gate.hello(), Welcome)
            assert await gate.work_and_pay(8) == 8
            with no_room():
                assert gate.work(8) == 8, "work that is under way goes on, on credit"
                await asyncio.sleep(0.3)
                assert not [each for each in gate.told if isinstance(each, Receipt)]
                with pytest.raises(NotAccepted, match="cannot be written down"):
                    gate.work(1)
            receipt = await gate.receipt()
            (slot,) = journal.slots("held")
            assert receipt.units == slot.receipt_units == 2 * slot.voucher_units
            await gate.pay(receipt.epoch, receipt.units)
            assert gate.customer.line.claimed == 0
            assert await gate.work_and_pay(8) == 8
            running.cancel()


async def test_a_voucher_that_a_provider_could_not_write_down_is_asked_for_again(tmp_path: Path) -> None:
    money = Money()
    with PaymentJournal(tmp_path / "ann.sqlite") as journal:
        money.journals["ann"] = journal
        ann = money.provider(Identity.generate(), "ann", DIGEST, BLOCKS)
        gate = HandGateway(money, ann.collector)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(ann.collector.run())
            await gate.hello()
            gate.work(4)
            receipt = await gate.receipt()
            with no_room():
                await gate.pay(receipt.epoch, receipt.units)
                assert gate.customer.line.claimed > 0, "it does not count before it is written down"
            again = await gate.receipt()
            assert again == receipt
            await gate.pay(again.epoch, again.units)
            assert (gate.customer.line.claimed, journal.slots("held")[0].voucher_units) == (0, receipt.units)
            running.cancel()
