"""What a provider can take from an honest gateway by its claims: what its tokens were worth when they came, no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chain.wallet import Account
from mesh.errors import PeerFailed, ProtocolViolation
from mesh.identity import Identity
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.credit.store import PaymentJournal
from mesh.wire.paying import Receipt, Unwelcome
from tests.mesh.payment.credit.actors import HandProvider
from tests.mesh.payment.money import Money
from tests.mesh.swarm_in_memory import until

pytestmark = pytest.mark.timeout(60)

SETTLE_SECONDS = 0.15
"""For everything to be signed that ever will be."""


@asynccontextmanager
async def gate_at_work(money: Money, *providers: HandProvider) -> AsyncIterator[VoucherIssuer]:
    """One process of the gateway «gate», which these providers have welcomed."""
    async with asyncio.TaskGroup() as tasks:
        issuer = money.gateway(Identity.generate(), "gate")(tasks)
        for provider in providers:
            await provider.meet(issuer)
        yield issuer
        await asyncio.sleep(SETTLE_SECONDS)
        for provider in providers:
            issuer.leave(provider.peer)


async def test_what_reached_the_gateway_is_signed_for_as_claimed() -> None:
    mal = HandProvider(Money())
    async with gate_at_work(mal.money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        issuer.receipt(mal.peer, mal.receipt(7, 60))
        await until(lambda: mal.signed(7) == 60)
        issuer.receipt(mal.peer, mal.receipt(7, 500))
    assert mal.signed(7) == 100


@pytest.mark.parametrize("rise", [2, 1000, 10**9])
async def test_work_claimed_in_the_next_epoch_gets_no_more_than_it_cost_when_it_was_done(rise: int) -> None:
    """The creator has raised the price from the next epoch on, which everybody knows already."""
    mal = HandProvider(Money())
    chain = mal.money.chain
    chain.prices = {1: 10**12, 8: rise * 10**12}
    async with gate_at_work(mal.money, mal) as issuer:
        issuer.accrue(mal.peer, 2000)
        issuer.receipt(mal.peer, mal.receipt(8, 2000))
        await asyncio.sleep(SETTLE_SECONDS)
        assert mal.vouchers == [], "nothing is signed for an epoch that has not begun"
        chain.epoch = 8
        await asyncio.sleep(0.6)

    assert chain.tariff_in(8).fee(mal.signed(8)) <= chain.tariff_in(7).fee(2000)
    assert mal.signed(8) == 2000 // rise


async def test_a_claim_of_a_provider_that_sees_the_next_epoch_first_is_paid_when_that_has_come() -> None:
    mal = HandProvider(Money())
    async with gate_at_work(mal.money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        issuer.receipt(mal.peer, mal.receipt(8, 100))
        mal.money.chain.epoch = 8
        await until(lambda: mal.signed(8) == 100)


@pytest.mark.parametrize("epoch", [1, 5, 9, 10**6])
async def test_a_claim_for_an_epoch_that_is_over_or_far_away_is_a_violation(epoch: int) -> None:
    mal = HandProvider(Money())
    async with gate_at_work(mal.money, mal) as issuer:
        with pytest.raises(ProtocolViolation, match="and it is 7"):
            issuer.receipt(mal.peer, mal.receipt(epoch, 10))


@pytest.mark.parametrize("credit", [1, 64, 1 << 20, 1 << 32])
async def test_a_gateway_that_starts_again_signs_for_nothing_that_it_did_not_count(credit: int, tmp_path: Path) -> None:
    money = Money()
    mal = HandProvider(money)
    for run in range(3):
        with PaymentJournal(tmp_path / "gate.sqlite") as journal:
            money.journals["gate"] = journal
            async with asyncio.TaskGroup() as tasks:
                issuer = money.gateway(Identity.generate(), "gate")(tasks)
                await mal.meet(issuer, credit=credit)
                if run == 0:
                    issuer.accrue(mal.peer, 30)
                issuer.receipt(mal.peer, mal.receipt(7, 30 + run * 30 * credit))
                await asyncio.sleep(SETTLE_SECONDS)
    assert mal.signed(7) == 30


async def test_what_was_counted_when_a_receipt_came_is_still_owed_after_a_crash(tmp_path: Path) -> None:
    money = Money()
    mal = HandProvider(money)
    with PaymentJournal(tmp_path / "gate.sqlite") as journal:
        money.journals["gate"] = journal
        async with gate_at_work(money, mal) as issuer:
            issuer.accrue(mal.peer, 100)
            issuer.receipt(mal.peer, mal.receipt(7, 40))
            await until(lambda: mal.signed(7) == 40)
    with PaymentJournal(tmp_path / "gate.sqlite") as journal:
        money.journals["gate"] = journal
        async with gate_at_work(money, mal) as issuer:
            issuer.receipt(mal.peer, mal.receipt(7, 200))
        assert mal.signed(7) == 100


@pytest.mark.parametrize("epochs", [(7,), (6, 7, 8)])
async def test_a_flood_of_receipts_costs_a_task_and_a_few_rows(epochs: tuple[int, ...]) -> None:
    money = Money()
    mal = HandProvider(money)
    flood = [mal.receipt(epoch, number) for epoch in epochs for number in range(1, 5000 // len(epochs))]
    async with gate_at_work(money, mal) as issuer:
        before = len(asyncio.all_tasks())
        for number, receipt in enumerate(flood):
            issuer.receipt(mal.peer, receipt)
            if number % 500 == 0:
                await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= before + 1
        (books,) = issuer._books.values()
        assert len(books.inbox) <= 3
        verified = 0

        def count() -> None:
            nonlocal verified
            verified += 1

        issuer.on_receipt = count
        issuer.accrue(mal.peer, 10)
        await asyncio.sleep(SETTLE_SECONDS)
        assert verified <= 3
    journal = money.journal("gate")
    assert len(journal.slots("issued")) <= len(epochs)
    assert len(books.line.epochs) <= 2


async def test_the_same_receipt_over_and_over_is_answered_at_a_steady_pace() -> None:
    mal = HandProvider(Money())
    async with gate_at_work(mal.money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        receipt = mal.receipt(7, 60)
        issuer.receipt(mal.peer, receipt)
        await until(lambda: mal.signed(7) == 60)
        mal.vouchers.clear()
        for _ in range(2000):
            issuer.receipt(mal.peer, receipt)
        await until(lambda: bool(mal.vouchers))
        await asyncio.sleep(SETTLE_SECONDS)
        assert len(mal.vouchers) <= 3


def forged(receipt: Receipt, how: str) -> Receipt:
    changed = {
        "endorsement": (receipt.previous, receipt.signature, bytes(64)),
        "signature": (receipt.previous, bytes(65), receipt.endorsement),
        "link": (b"x" * 32, receipt.signature, receipt.endorsement),
    }[how]
    return Receipt(receipt.epoch, receipt.sequence, receipt.units, *changed)


@pytest.mark.parametrize("how", ["endorsement", "signature", "link", "another key"])
async def test_a_forged_receipt_gets_nothing_and_ends_the_channel(how: str) -> None:
    mal = HandProvider(Money())
    async with gate_at_work(mal.money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        stranger = Account.create()
        receipt = mal.receipt(7, 60, account=stranger if how == "another key" else None)
        issuer.receipt(mal.peer, receipt if how == "another key" else forged(receipt, how))
        await asyncio.sleep(SETTLE_SECONDS)

        with pytest.raises(ProtocolViolation, match=r"did not sign|bad signature"):
            issuer.receipt(mal.peer, mal.receipt(7, 80))
    assert mal.vouchers == []


@pytest.mark.parametrize("how", ["unstaked", "another key", "silent"])
async def test_nothing_is_signed_for_a_provider_that_is_no_longer_what_it_was(how: str) -> None:
    mal = HandProvider(Money())
    chain, facts = mal.money.chain, mal.money.chain.providers["mal"]
    async with gate_at_work(mal.money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        issuer.receipt(mal.peer, mal.receipt(7, 60))
        await until(lambda: mal.signed(7) == 60)
        match how:
            case "unstaked":
                chain.barred.add("mal")
            case "another key":
                chain.providers["mal"] = replace(facts, signer=Account.create().address)
            case _:
                chain.silent = True
        issuer.receipt(mal.peer, mal.receipt(7, 80))
        await asyncio.sleep(SETTLE_SECONDS)
        assert mal.signed(7) == 60

        chain.barred.clear()
        chain.silent = False
        chain.providers["mal"] = facts
        issuer.receipt(mal.peer, mal.receipt(7, 90))
        await until(lambda: mal.signed(7) == 90)


async def test_nothing_is_signed_for_an_epoch_in_which_another_key_signs_for_the_gateway() -> None:
    money = Money()
    mal = HandProvider(money)
    async with gate_at_work(money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        issuer.receipt(mal.peer, mal.receipt(7, 40))
        await until(lambda: mal.signed(7) == 40)
        money.chain.epoch = 8
        money.chain.signers["gate", 8] = Account.create().address
        issuer.receipt(mal.peer, mal.receipt(8, 60))
        await asyncio.sleep(SETTLE_SECONDS)
        assert mal.signed(8) == 0
        del money.chain.signers["gate", 8]
        issuer.receipt(mal.peer, mal.receipt(8, 61))
        await until(lambda: mal.signed(8) == 60)


async def test_nothing_is_signed_for_an_epoch_that_is_being_settled_and_the_work_is_paid_in_the_next() -> None:
    money = Money()
    mal = HandProvider(money)
    async with gate_at_work(money, mal) as issuer:
        issuer.accrue(mal.peer, 100)
        money.chain.epoch = 8
        money.journal("gate").seal("gate", 7)
        issuer.receipt(mal.peer, mal.receipt(7, 100))
        await asyncio.sleep(SETTLE_SECONDS)
        assert mal.vouchers == []
        issuer.receipt(mal.peer, mal.receipt(8, 100))
    assert (mal.signed(7), mal.signed(8)) == (0, 100)


async def test_a_provider_that_says_that_its_line_is_too_short_is_noted_and_heard_once() -> None:
    money = Money()
    mal = HandProvider(money)
    heard: list[str] = []
    async with gate_at_work(money, mal) as issuer:
        issuer.on_short = heard.append
        for _ in range(100):
            issuer.unwelcome(mal.peer, Unwelcome("line", "your line for mal covers 0 FUNC", 5000))
    assert heard == ["mal"]
    assert money.journal("gate").notices("gate") == {"mal"}


async def test_a_provider_that_does_not_want_us_is_not_signed_for() -> None:
    mal = HandProvider(Money())
    async with gate_at_work(mal.money) as issuer:
        with pytest.raises(PeerFailed, match="not_accepted"):
            await issuer.welcomed(mal.peer, Unwelcome("not_accepted", "no", 1), mal.paid.binding, mal.hear)
        issuer.accrue(mal.peer, 100)
        with pytest.raises(ProtocolViolation):
            issuer.receipt(mal.peer, mal.receipt(7, 10))


async def test_the_last_epochs_are_kept_and_older_ones_forgotten_as_the_epoch_turns() -> None:
    money = Money()
    mal = HandProvider(money)
    async with gate_at_work(money, mal) as issuer:
        for epoch in range(7, 12):
            money.chain.epoch = epoch
            issuer.accrue(mal.peer, 10)
            issuer.receipt(mal.peer, mal.receipt(epoch, 10))
            await until(lambda now=epoch: mal.signed(now) == 10)  # type: ignore[misc]
        (books,) = issuer._books.values()
        assert sorted(books.line.epochs) == [10, 11]
        money.chain.epoch = 169
        issuer.accrue(mal.peer, 10)
        issuer.receipt(mal.peer, mal.receipt(169, 10))
        await until(lambda: mal.signed(169) == 10)
    assert [slot.epoch for slot in money.journal("gate").slots("issued")] == [9, 10, 11, 169]
