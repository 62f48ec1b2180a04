"""The gateway's issuer of vouchers by itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from typing import Any

import pytest

from chain import vouchers
from chain.primitives import key_of
from chain.vouchers import ContributionReceipt
from mesh.identity import Identity
from mesh.payment.credit.line import GENESIS, Pair, ReceiptClaim
from mesh.payment.credit.store import PaymentJournal
from mesh.wire.messages import Message
from mesh.wire.paying import Receipt, Voucher, Welcome
from tests.mesh.payment.money import DOMAIN, MODEL_ID, Money
from tests.mesh.sample_record import sample_record

pytestmark = pytest.mark.timeout(30)

PAIR = Pair("gate", "ann", MODEL_ID)


class SlowJournal(PaymentJournal):
    """Its first voucher is not on the disk before the test says so."""

    def __init__(self) -> None:
        super().__init__(None)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def record_voucher(self, *arguments: Any, **named: Any) -> bool:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(10)
        return super().record_voucher(*arguments, **named)


async def test_what_is_signed_grows_though_a_new_channel_begins_while_a_voucher_is_written() -> None:
    money, provider, journal = Money(), Identity.generate(), SlowJournal()
    money.journals["gate"] = journal
    ann = money.provider(provider, "ann", "ab" * 32, 2)
    money.chain.epoch = 7
    previous = GENESIS

    def receipt(sequence: int, units: int) -> Receipt:
        nonlocal previous
        claim = ReceiptClaim(PAIR, 7, sequence, units, previous)
        signed = ContributionReceipt(key_of("gate"), key_of("ann"), MODEL_ID, 7, units)
        signature = ann.account.sign_digest(vouchers.digest(DOMAIN, signed))
        said = Receipt(7, sequence, units, previous, signature, provider.sign(claim.link))
        previous = claim.link
        return said

    said: list[int] = []

    async def say(message: Message) -> None:
        assert isinstance(message, Voucher)
        said.append(message.units)

    peer, welcome = provider.peer_id, Welcome("ann", MODEL_ID, 64)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        issuer = money.gateway(Identity.generate(), "gate")(tasks)
        await issuer.welcomed(peer, welcome, ann.binding, say)
        issuer.receipt(peer, receipt(1, 10))
        issuer.accrue(peer, 100)
        await asyncio.to_thread(journal.begun.wait, 10)

        issuer.leave(peer)
        await issuer.welcomed(peer, welcome, ann.binding, say)
        issuer.receipt(peer, receipt(2, 14))
        await asyncio.sleep(0.2)  # for it to be signed, if nothing kept it from that
        journal.go_on.set()
        while 14 not in said:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    assert said == [10, 14]
    journal.close()
    ann.journal.close()


async def test_two_channels_that_begin_at_once_share_one_line() -> None:
    money, provider = Money(), Identity.generate()
    ann = money.provider(provider, "ann", "ab" * 32, 2)

    async def say(message: Message) -> None:
        pass

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        issuer = money.gateway(Identity.generate(), "gate")(tasks)
        welcome = Welcome("ann", MODEL_ID, 64)
        first = issuer.welcomed(provider.peer_id, welcome, ann.binding, say)
        second = issuer.welcomed(provider.peer_id, welcome, ann.binding, say)
        kept = []
        for work in asyncio.as_completed([first, second]):
            await work
            kept.append(issuer._creditors[provider.peer_id].books)
    assert kept[0] is kept[1]
    for name in ("ann", "gate"):
        money.journal(name).close()


async def test_strangers_records_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    money = Money()
    strangers = [sample_record(Identity.generate().peer_id) for _ in range(20)]
    async with asyncio.TaskGroup() as tasks:
        issuer = money.gateway(Identity.generate(), "gate")(tasks)
        with caplog.at_level(logging.INFO, logger="mesh.payment.credit.vetting"):
            for _ in range(10):
                assert await issuer.vet(strangers) == []
            assert len(caplog.records) == 20, "once for each"
            assert await issuer.vet([replace(strangers[0], account=b"\xff" * 200)]) == []
            assert len(caplog.records) == 21, "and again for another reason"
    money.journal("gate").close()
