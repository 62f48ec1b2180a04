"""A chain that answers wrongly, or is another one: no party believes it, and each goes on with what it knew."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chain.client import provider
from chain.client.retry import RetryPolicy
from chain.client.staking import StakingClient
from chain.devnet.accounts import faucet
from chain.primitives import FUNC, checksummed
from mesh.client.payer import Payer
from mesh.identity import Identity
from mesh.payment.accounts.onchain import ChainEscrow
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.terms import NotAccepted
from mesh.payment.onchain.view import StakingView
from tests.chain.shells.proxy import Proxy, proxy
from tests.chain.shells.world import ChainProcess, start_chain
from tests.mesh.payment.accounts.test_silent_chain import DEVELOPER, FRESH, GATEWAY, LATE, customer_of, furnish

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

OLD = 2.5
"""Seconds that a fact may be old here, instead of two minutes."""
AT_ONCE = RetryPolicy(deadline=2.0)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChainProcess, ChainProcess]]:
    """Ours, and what stands in its place once somebody has started it anew: the same id and addresses."""
    ours, anew = (start_chain(tmp_path_factory.mktemp(name)) for name in ("ours", "anew"))
    try:
        asyncio.run(furnish(ours))
        yield ours, anew
    finally:
        ours.kill()
        anew.kill()


def each(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[bytes], bytes]:
    """`change` for every answer of a batch."""

    def changed(raw: bytes) -> bytes:
        body = json.loads(raw)
        return json.dumps([change(one) for one in body] if isinstance(body, list) else change(body)).encode()

    return changed


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda raw: b"<html>try again later</html>",
    "nothing": each(lambda answer: {**answer, "result": None}),
    "empty": each(lambda answer: {**answer, "result": "0x"}),
    "errors": each(lambda answer: {"jsonrpc": "2.0", "id": answer["id"], "error": {"code": -32603, "message": "no"}}),
    "another id": each(lambda answer: {**answer, "result": "0x7"} if answer.get("result") == hex(31337) else answer),
}


@asynccontextmanager
async def between(target: str) -> AsyncIterator[Proxy]:
    async with proxy(target, lambda number, body: "pass") as opened:
        yield opened


EVERYDAY = ("nothing", "begun anew")


@pytest.fixture(
    params=[
        pytest.param(kind, marks=() if kind in EVERYDAY else (pytest.mark.slow,)) for kind in (*WRONG, "begun anew")
    ]
)
def spoil(
    request: pytest.FixtureRequest, chains: tuple[ChainProcess, ChainProcess], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Proxy], None]:
    # So that nothing of the other chain is taken for ours in the second until that is looked at.
    monkeypatch.setattr(provider, "CHAIN_SECONDS", 0.0)

    def spoiled(way: Proxy) -> None:
        if request.param == "begun anew":
            way.target = chains[1].url
        else:
            way.change = WRONG[request.param]

    return spoiled


def mend(way: Proxy, chains: tuple[ChainProcess, ChainProcess]) -> None:
    way.target, way.change = chains[0].url, None


async def test_a_gateway_serves_on_with_what_a_chain_said_before_it_answered_wrongly(
    chains: tuple[ChainProcess, ChainProcess], spoil: Callable[[Proxy], None], tmp_path: Path
) -> None:
    async with between(chains[0].url) as way:

        def serve() -> None:
            with customer_of(chains[0], way.url, tmp_path) as customer:
                spoil(way)
                took = customer.ask_for(3 * FRESH)
                assert max(took) < LATE, took
                mend(way, chains)
                assert max(customer.ask_for(2 * FRESH)) < LATE

        await asyncio.to_thread(serve)


async def test_a_provider_knows_its_gateways_by_what_a_chain_said_before_until_that_is_too_old(
    chains: tuple[ChainProcess, ChainProcess], spoil: Callable[[Proxy], None]
) -> None:
    ours = chains[0].deployment
    settlement = checksummed(bytes.fromhex(ours.address("Settlement")[2:]))
    who = Binding(
        "gateway", GATEWAY, ours.chain_id, settlement, faucet(2).address, Identity.generate().peer_id, 1 << 40
    )
    async with between(chains[0].url) as way, StakingClient(way.url, ours, retry=AT_ONCE) as client:
        view = StakingView(client, poll_seconds=0.1, fact_seconds=0.1, old_seconds=OLD)
        await view.start()
        following = asyncio.create_task(view.run())
        try:
            known, epoch = await view.check_gateway(who), view.epoch
            spoil(way)
            began = time.monotonic()
            while True:
                try:
                    assert await view.check_gateway(who) == known
                except NotAccepted as error:
                    assert "the chain does not answer" in str(error)
                    break
                await asyncio.sleep(0.1)
                assert time.monotonic() - began < 3 * OLD
            assert time.monotonic() - began > OLD - 1
            assert view.epoch == epoch
            mend(way, chains)
            assert await view.check_gateway(who) == known
        finally:
            following.cancel()
            await asyncio.wait({following})
            await view.close()


async def test_a_payer_signs_for_what_a_chain_held_before_and_no_more_while_it_answers_wrongly(
    chains: tuple[ChainProcess, ChainProcess], spoil: Callable[[Proxy], None], tmp_path: Path
) -> None:
    price = 10**12

    def served(stop: asyncio.Event, ready: asyncio.Future[tuple[str, str]], loop: asyncio.AbstractEventLoop) -> None:
        with customer_of(chains[0], chains[0].url, tmp_path) as customer:
            loop.call_soon_threadsafe(ready.set_result, (customer.paid.url, customer.key))
            asyncio.run_coroutine_threadsafe(stop.wait(), loop).result()

    loop, stop, ready = asyncio.get_running_loop(), asyncio.Event(), asyncio.Future[tuple[str, str]]()
    serving = asyncio.create_task(asyncio.to_thread(served, stop, ready, loop))
    try:
        async with asyncio.timeout(60):
            url, key = await ready
        async with between(chains[0].url) as way, StakingClient(way.url, chains[0].deployment, retry=AT_ONCE) as client:
            escrow = ChainEscrow(client, GATEWAY, fresh=0.1)
            async with Payer(
                url, key, DEVELOPER, ahead=1000 * price, already_signed=FUNC // 2, reserve=escrow, beside=True
            ) as payer:
                held = payer.paid.deposit
                assert held == FUNC
                spoil(way)
                for _ in range(3):
                    await asyncio.sleep(0.15)
                    paid = await payer.pay_now()
                    assert (paid.deposit, paid.signed <= held) == (held, True)
                mend(way, chains)
                assert (await payer.pay_now()).deposit == held
            await escrow.close()
    finally:
        stop.set()
        await serving
