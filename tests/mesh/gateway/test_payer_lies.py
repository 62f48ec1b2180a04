"""`mesh pay` against gateways that lie about each figure of the account: it costs what the payer chose to risk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.primitives import Address, key_of
from chain.vouchers import PaymentVoucher, digest
from mesh.client.payer import DEFAULT_AHEAD, DEFAULT_BUDGET, Payer
from mesh.client.payer_store import PayerStore
from mesh.errors import AccountDisputed, ConfigError, MeshError, PeerUnreachable, ProtocolViolation
from mesh.payment.accounts.ports import Backing, Unavailable
from tests.mesh.gateway.lying_gateway import HUGE, Liar, lying
from tests.mesh.gateway.paid import ANN, BOB, DOMAIN, EVE, GATEWAY, PRICE, K

INCREMENT = PRICE * K
FEW = 8


def says(**figures: Any) -> Callable[[dict[str, Any], int], None]:
    return lambda account, answers: account.update(figures)


async def pay(liar: Liar, *, key: str = "sk-mesh-x", rounds: int = 60, **bounds: Any) -> Payer:
    """Run the agent until it has asked `rounds` times, or ends."""
    async with Payer(liar.url, key, ANN, **bounds, beside=True) as payer:
        finished = asyncio.create_task(payer.finished())
        while liar.answers < rounds and not finished.done():  # noqa: ASYNC110 - the liar counts
            await asyncio.sleep(0.005)
        finished.cancel()
    return payer


# --- figures that only ask for more ---


@pytest.mark.parametrize("figure", ["increment", "pending", "deposit", "available", "credit", "charged"])
async def test_a_huge_figure_gets_at_most_what_is_paid_ahead(figure: str) -> None:
    async with lying(Liar(says(**{figure: HUGE}))) as liar:
        await pay(liar, rounds=FEW)
    assert max(liar.vouchers) == (DEFAULT_AHEAD if figure in ("increment", "pending") else INCREMENT)


async def test_all_of_them_together_get_no_more() -> None:
    lies = dict.fromkeys(["increment", "pending", "deposit", "available", "credit", "charged"], HUGE)
    async with lying(Liar(says(**lies))) as liar:
        await pay(liar, rounds=FEW, ahead=7 * PRICE)
    assert liar.vouchers == [7 * PRICE]


async def test_a_gateway_that_says_it_hands_out_all_that_is_signed_gets_the_budget_and_no_more() -> None:
    for budget in (None, 3 * DEFAULT_AHEAD, 0):

        def lie(account: dict[str, Any], answers: int) -> None:
            account.update(spent=account["signed"], increment=HUGE, deposit=HUGE)

        async with lying(Liar(lie)) as liar:
            payer = await pay(liar, budget=budget)
        expected = DEFAULT_BUDGET if budget is None else budget
        assert max(liar.vouchers, default=0) == payer.paid.promised == expected
        assert payer.paid.exhausted


# --- figures that cannot be true ---


@pytest.mark.parametrize("figure", ["signed", "spent"])
@pytest.mark.parametrize("first", [0, 5])
async def test_what_was_never_signed_is_disputed_at_once_and_nothing_is_signed_for_it(figure: str, first: int) -> None:
    def lie(account: dict[str, Any], answers: int) -> None:
        if answers >= first:
            account[figure] = HUGE

    async with lying(Liar(lie)) as liar:
        with pytest.raises(AccountDisputed, match=r"--already-signed|Nothing more is signed") as caught:
            await pay(liar)
    assert caught.value.field == figure
    assert liar.url in str(caught.value)
    assert max(liar.vouchers, default=0) <= INCREMENT


async def test_a_price_above_the_payers_own_is_disputed() -> None:
    async with lying(Liar(says(prices={"cheap": "1", "dear": str(PRICE + 1)}))) as liar:
        with pytest.raises(AccountDisputed, match="'dear'") as caught:
            await pay(liar, max_price=PRICE)
        assert caught.value.field == "prices" and not liar.vouchers
        with pytest.raises(AccountDisputed):
            await pay(liar, max_price=0)
        await pay(liar, rounds=liar.answers + 3, max_price=PRICE + 1)


@pytest.mark.parametrize(
    "figures",
    [
        {"gateway": "another"},
        {"chain_id": 1},
        {"escrow": "0x" + "11" * 20},
        {"payer": EVE.address},
        {"signed": "-1"},
        {"spent": 5},
        {"pending": "1e30"},
        {"increment": None},
        {"deposit": "9" * 40},
        {"prices": {"m": -1}},
        {"voucher_signature": "0x00"},
        {"voucher_signature": 7},
    ],
)
async def test_who_is_paid_may_not_change_and_figures_must_be_figures(figures: dict[str, Any]) -> None:
    def lie(account: dict[str, Any], answers: int) -> None:
        if answers >= 4:
            account.update(figures)

    async with lying(Liar(lie)) as liar:
        with pytest.raises((ConfigError, ProtocolViolation)):
            await pay(liar)
    assert max(liar.vouchers) == INCREMENT


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_it_says_it_gets_at_most_the_budget(seed: int) -> None:
    draw = random.Random(seed)
    budget = 4 * INCREMENT

    def lie(account: dict[str, Any], answers: int) -> None:
        for name in ("increment", "pending", "deposit", "available", "credit", "charged", "spent", "signed"):
            if draw.random() < 0.3:
                account[name] = str(draw.choice([0, 1, int(account["signed"]), INCREMENT, 10**20, 10**38]))
        if draw.random() < 0.2:
            account["voucher_signature"] = "0x" + draw.randbytes(65).hex()

    async with lying(Liar(lie)) as liar:
        try:
            await pay(liar, budget=budget, ahead=draw.choice([1, INCREMENT, 100 * INCREMENT]))
        except MeshError as error:
            assert isinstance(error, AccountDisputed)
    assert max(liar.vouchers, default=0) <= budget


# --- books ---


async def test_a_restart_believes_the_books_and_not_the_gateway(tmp_path: Path) -> None:
    store = tmp_path / "promises.sqlite"
    async with lying(Liar()) as liar:
        liar.lie = lambda account, answers: account.update(spent=str(min(liar.signed, 3 * PRICE)))
        first = await pay(liar, rounds=FEW, store=store)
        liar.lie = says(signed=HUGE, spent=HUGE)
        with pytest.raises(AccountDisputed):
            await pay(liar, store=store)
        liar.lie = says(gateway="another")
        with pytest.raises(ConfigError, match="'another'"):
            await pay(liar, store=store)
        assert liar.signed == first.paid.promised
        # It has forgotten everything: what was promised is promised, and the budget begins there.
        liar.signed, liar.spent, liar.signature = 0, 0, None
        liar.lie = says(increment=HUGE)
        again = await pay(liar, rounds=liar.answers + FEW, store=store, budget=5, ahead=INCREMENT)
    assert again.paid.promised <= first.paid.promised + 5
    with PayerStore(store) as books:
        assert books.highest(DOMAIN, ANN.canonical, GATEWAY) == again.paid.promised
        assert books.followed(DOMAIN, ANN.canonical, GATEWAY) == 3 * PRICE


def signature(amount: int, signer: Any = ANN, gateway: str = GATEWAY) -> str:
    voucher = PaymentVoucher(ANN.canonical, key_of(gateway), amount)
    return "0x" + signer.sign_digest(digest(DOMAIN, voucher)).hex()


async def test_books_that_were_lost_are_recovered_from_our_own_signature_only() -> None:
    signed = 9 * INCREMENT
    async with lying(Liar(signed=signed, signature=signature(signed), spent=8 * INCREMENT)) as liar:
        payer = await pay(liar, rounds=FEW)
        assert payer.paid.promised == signed and payer.paid.used == 0
        for wrong in (None, signature(signed, EVE), signature(signed - 1), signature(signed, gateway="another")):
            liar.signature = wrong
            with pytest.raises(AccountDisputed) as caught:
                await pay(liar)
            assert caught.value.field == "signed"
        liar.signature = None
        payer = await pay(liar, rounds=liar.answers + FEW, already_signed=signed)
        assert payer.paid.promised == signed
    assert not liar.vouchers


class Reserve:
    """What the payer sees on its own chain."""

    def __init__(self, backing: Backing) -> None:
        self.backing = backing
        self.down = False

    async def deposit_of(self, payer: Address) -> Backing:
        assert payer == ANN.canonical
        if self.down:
            raise Unavailable("no node")
        return self.backing


async def test_with_a_chain_of_its_own_the_payer_signs_for_what_is_held_there_and_not_more() -> None:
    def lie(account: dict[str, Any], answers: int) -> None:
        account.update(spent=account["signed"], increment=HUGE, deposit=HUGE)

    reserve = Reserve(Backing(available=3 * INCREMENT, redeemed=0))
    async with lying(Liar(lie)) as liar:
        payer = await pay(liar, reserve=reserve)
        assert max(liar.vouchers) == 3 * INCREMENT
        assert payer.paid.deposit == 3 * INCREMENT and payer.paid.exhausted
    async with lying(Liar(lie)) as liar:
        await pay(liar, reserve=reserve, budget=INCREMENT)
        assert max(liar.vouchers) == INCREMENT, "a budget counts beside it"


async def test_what_the_chain_has_paid_is_known_to_be_signed_without_books() -> None:
    paid = 5 * INCREMENT
    async with lying(Liar(signed=paid, spent=paid)) as liar:
        reserve = Reserve(Backing(available=10**18, redeemed=paid))
        payer = await pay(liar, rounds=FEW, reserve=reserve)
        assert payer.paid.promised == max(liar.vouchers) == paid + INCREMENT
        reserve.down = True
        with pytest.raises(PeerUnreachable, match="the chain cannot be asked"):
            await payer_of(liar, reserve)


async def payer_of(liar: Liar, reserve: Reserve) -> None:
    async with Payer(liar.url, "sk-mesh-x", ANN, reserve=reserve, beside=True):
        pass


async def test_a_signer_of_another_payer_recovers_what_its_owner_signed() -> None:
    signed = 2 * INCREMENT
    async with (
        lying(Liar(signed=signed, signature=signature(signed, ANN))) as liar,
        Payer(liar.url, "sk-mesh-x", BOB, payer=ANN.canonical, beside=True) as payer,
    ):
        assert payer.paid.promised == signed
