"""A gateway's chain hangs, is slow, or dies while developers ask and pay: nobody waits for it within the stated age."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_utils import to_canonical_address
from openai import OpenAI

from chain.client.staking import StakingClient
from chain.devnet.accounts import faucet
from chain.primitives import FUNC
from chain.vouchers import Domain
from mesh.gateway.app import create_app
from mesh.gateway.billing import Billing, BillingConfig
from mesh.gateway.config import GatewayConfig
from mesh.payment.accounts.onchain import ChainEscrow, ChainPrices
from mesh.payment.accounts.store import AccountStore
from mesh.payment.facts import Silence
from tests.chain.shells.proxy import Proxy, proxy
from tests.chain.shells.world import ChainProcess, start_chain
from tests.mesh.gateway.conftest import models, serve_app
from tests.mesh.gateway.echo_backend import EchoBackend
from tests.mesh.gateway.paid import Paid

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

GATEWAY, MODEL, PRICE = "gateway-1", "slow", 10**12
FRESH = 0.3
"""Seconds, so that facts grow old while a test runs."""
LATE = 2.0
DEVELOPER = faucet(3)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    running = start_chain(tmp_path_factory.mktemp("chain"))
    try:
        asyncio.run(furnish(running))
        yield running
    finally:
        running.kill()


async def furnish(chain: ChainProcess) -> None:
    async with StakingClient(chain.url, chain.deployment, account=faucet(1), poll=0.05) as creator:
        digest = bytes([list(models()).index(MODEL)]) * 32
        await creator.models.create_model(
            MODEL, digest, "", blocks=4, price_per_token=PRICE, royalty_bps=500, model_stake_amount=FUNC
        )
    async with StakingClient(chain.url, chain.deployment, account=faucet(2), poll=0.05) as owner:
        await owner.gateways.register_and_stake(GATEWAY, "{}", 100 * FUNC)
    async with StakingClient(chain.url, chain.deployment, account=DEVELOPER, poll=0.05) as developer:
        await developer.escrow.deposit_and_reserve(GATEWAY, FUNC)


@dataclass
class Customer:
    """A developer at the gateway, who pays by hand before every request."""

    paid: Paid
    key: str
    openai: OpenAI
    signed: int = 0
    spent: int = 0

    def ask(self) -> float:
        """Seconds that it took, with a voucher before."""
        began = time.monotonic()
        self.signed += 200 * PRICE
        answer = self.paid.pay(self.key, self.signed, DEVELOPER)
        assert answer.status_code == 200, answer.text
        done = self.openai.completions.create(
            model=MODEL, prompt="the", max_tokens=5, temperature=0, extra_body={"ignore_eos": True}
        )
        self.spent += int(done.usage.model_extra["cost"]["wei"])  # type: ignore[union-attr, index]
        return time.monotonic() - began

    def ask_for(self, seconds: float) -> list[float]:
        """One request after the other: how long each took."""
        took = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            took.append(self.ask())
        return took


@contextmanager
def customer_of(chain: ChainProcess, url: str, folder: Path) -> Iterator[Customer]:
    reader, silence = StakingClient(url, chain.deployment), Silence()
    escrow = to_canonical_address(chain.deployment.address("Escrow"))
    billing = Billing(
        BillingConfig(increment_tokens=128),
        GATEWAY,
        Domain(chain.deployment.chain_id, escrow),
        ChainPrices(reader, fresh=FRESH, silence=silence),
        ChainEscrow(reader, GATEWAY, fresh=FRESH, silence=silence),
        AccountStore(folder / "accounts.sqlite", GATEWAY),
    )
    backend = EchoBackend(models())

    @asynccontextmanager
    async def around() -> AsyncIterator[None]:
        async with reader, billing:
            yield

    with serve_app(create_app(backend, GatewayConfig(), billing), around=around()) as gateway:
        paid = Paid(gateway, backend, None, billing, billing.domain)  # type: ignore[arg-type]
        key = paid.key(DEVELOPER)
        with paid.openai(key) as client:
            customer = Customer(paid, key, client)
            customer.ask()
            yield customer
            assert int(paid.account(key)["charged"]) == customer.spent == billing.store.charged_total()


def test_no_request_is_lost_or_late_while_the_chain_hangs(chain: ChainProcess, tmp_path: Path) -> None:
    with customer_of(chain, chain.url, tmp_path) as customer:
        os.killpg(chain.pid, signal.SIGSTOP)
        try:
            took = customer.ask_for(4.0)
        finally:
            os.killpg(chain.pid, signal.SIGCONT)
        assert len(took) > 3 and max(took) < LATE, took
        assert max(customer.ask_for(1.0)) < LATE


async def test_no_request_is_late_because_every_answer_of_the_chain_is(chain: ChainProcess, tmp_path: Path) -> None:
    def passing(number: int, body: object) -> str:
        return "pass"

    async with proxy(chain.url, passing) as between:  # type: ignore[arg-type]
        took = await asyncio.to_thread(slow, chain, between, tmp_path)
    assert len(took) > 3 and max(took) < LATE, took


def slow(chain: ChainProcess, between: Proxy, folder: Path) -> list[float]:
    with customer_of(chain, between.url, folder) as customer:
        between.delay = 3.0
        try:
            return customer.ask_for(8.0)
        finally:
            between.delay = 0.0


def test_no_request_is_lost_or_late_when_the_chain_dies_and_strangers_hear_it_soon(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """The last test of this file: the chain does not come back."""
    with customer_of(chain, chain.url, tmp_path) as customer:
        os.killpg(chain.pid, signal.SIGKILL)
        took = customer.ask_for(4.0)
        assert len(took) > 3 and max(took) < LATE, took
        for most in (12.0, LATE):  # of whom nothing is known; the second one knows that the chain is silent
            began = time.monotonic()
            with customer.paid.http() as http:
                answer = http.post("/mesh/keys", json=customer.paid.key_request(faucet(7)))
            assert answer.status_code == 503 and "retry-after" in answer.headers, answer.text
            assert time.monotonic() - began < most
        assert customer.ask() < LATE
