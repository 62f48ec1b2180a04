"""A developer, a gateway and a real chain: key, deposit, vouchers, the official client, redemption."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from chain.client.staking import StakingClient
from chain.contract_errors import NothingDue
from chain.devnet.accounts import faucet
from chain.errors import NodeUnreachable
from chain.primitives import FUNC, key_of
from chain.vouchers import PaymentVoucher
from chain.wallet import Account
from mesh.gateway.app import create_app
from mesh.gateway.billing import BillingConfig, billing_for
from mesh.gateway.config import GatewayConfig
from mesh.payment.accounts.onchain import ChainEscrow, ChainPrices
from mesh.payment.accounts.ports import Backing
from mesh.payment.facts import Cached, Unanswered
from tests.chain.shells.world import ChainProcess, environment, start_chain
from tests.mesh.gateway.conftest import models, serve_app
from tests.mesh.gateway.echo_backend import EchoBackend
from tests.mesh.gateway.paid import Paid

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

CREATOR, GATEWAY_OWNER, DEVELOPER, SIGNER = 1, 2, 3, 4
GATEWAY = "gateway-1"
MODEL = "slow"
PRICE = 10**14
PROMPT = "the swarm"
PROMPT_TOKENS = len(PROMPT) + 1
K = 128
PASSWORD = "correct horse"


def digest_of(name: str) -> bytes:
    return bytes([list(models()).index(name)]) * 32


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    """An embedded chain with a model, a gateway, and the deposit of a developer."""
    running = start_chain(tmp_path_factory.mktemp("chain"))
    try:
        asyncio.run(furnish(running))
        yield running
    finally:
        running.stop()


async def furnish(chain: ChainProcess) -> None:
    async with client(chain, CREATOR) as creator:
        for name in (MODEL, "pairs"):
            await creator.models.create_model(
                name, digest_of(name), "", blocks=4, price_per_token=PRICE, royalty_bps=500, model_stake_amount=FUNC
            )
    async with client(chain, GATEWAY_OWNER) as owner:
        await owner.gateways.register_and_stake(GATEWAY, '{"url": "https://gateway.example"}', 100 * FUNC)
    async with client(chain, DEVELOPER) as developer:
        await developer.escrow.deposit_and_reserve(GATEWAY, FUNC)


@asynccontextmanager
async def client(chain: ChainProcess, account: Account | int | None) -> AsyncIterator[StakingClient]:
    chosen = faucet(account) if isinstance(account, int) else account
    async with StakingClient(chain.url, chain.deployment, account=chosen, poll=0.05) as connected:
        yield connected


def cost(prompt: int, generated: int) -> int:
    return PRICE * (prompt + 4 * generated)


@pytest.fixture
def paid(chain: ChainProcess, tmp_path: Path) -> Iterator[Paid]:
    """A gateway whose billing looks at the chain."""
    backend = EchoBackend(models())
    reader = StakingClient(chain.url, chain.deployment)
    config = BillingConfig(increment_tokens=K, pause_seconds=10)
    billing = billing_for(config, reader, tmp_path / "accounts.sqlite", GATEWAY)
    app = create_app(backend, GatewayConfig(), billing)

    @asynccontextmanager
    async def around() -> AsyncIterator[None]:
        async with reader, billing:
            yield

    with serve_app(app, around=around()) as url:
        yield Paid(url, backend, None, billing, billing.domain)  # type: ignore[arg-type]


class Developer:
    """Somebody with a wallet who types `mesh …`."""

    def __init__(self, chain: ChainProcess, folder: Path) -> None:
        self.environment = environment(
            XDG_DATA_HOME=str(folder),
            MESH_RPC=chain.url,
            MESH_DEPLOYMENT=str(chain.deployment_file),
            MESH_WALLET_PASSWORD=PASSWORD,
            PYTHONPATH=str(Path.cwd()),
        )

    def run(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "mesh", *arguments, "--json"], env=self.environment, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return dict(json.loads(done.stdout))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "mesh", *arguments, "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def complete(openai_client: OpenAI, tokens: int) -> Any:
    return openai_client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=tokens, temperature=0, extra_body={"ignore_eos": True}
    )


def test_a_developer_deposits_makes_a_key_pays_and_the_gateway_redeems(
    chain: ChainProcess, paid: Paid, tmp_path: Path
) -> None:
    developer = Developer(chain, tmp_path / "developer")
    developer.run("wallet", "import", "--devnet-account", str(DEVELOPER))
    made = developer.run("key", "new", "--gateway", paid.url)
    key = made["key"]
    assert made["payer"] == faucet(DEVELOPER).address
    assert paid.account(key)["prices"] == {MODEL: str(PRICE), "pairs": str(PRICE)}
    with paid.openai(key) as asking:
        with pytest.raises(openai.APIStatusError) as caught:
            complete(asking, 5)
        assert (caught.value.status_code, caught.value.code) == (402, "insufficient_funds")

        agent = developer.start("pay", "--beside", "--gateway", paid.url, "--api-key", key, "--budget", "0.5")
        assert agent.stdout is not None and agent.stderr is not None
        ready = json.loads(agent.stdout.readline())
        assert (ready["event"], ready["signed"]) == ("ready", str(PRICE * K))
        costs = []
        for tokens in (5, 100, 60):
            usage = complete(asking, tokens).usage
            costs.append(int(usage.model_extra["cost"]["wei"]))
            assert costs[-1] == cost(PROMPT_TOKENS, tokens)
        stream = asking.completions.create(
            model=MODEL,
            prompt=PROMPT,
            max_tokens=70,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        usage = next(chunk.usage for chunk in stream if chunk.usage)
        costs.append(int(usage.model_extra["cost"]["wei"]))
        account = paid.account(key)
        assert int(account["charged"]) == sum(costs) == paid.billing.store.charged_total()
        assert sum(costs) <= int(account["signed"]) <= sum(costs) + PRICE * K

        agent.send_signal(signal.SIGINT)
        said, complained = agent.communicate(timeout=20)
        assert agent.returncode == 0, complained.decode()
        told = [json.loads(line) for line in said.splitlines()]
        # Beside the increment, a prompt and a step of it may be reserved.
        first = cost(PROMPT_TOKENS, K // 16)
        assert all(int(each["signed"]) <= int(each["spent"]) + PRICE * K + first for each in told)

        # What was signed is still good for a while; then nobody pays any more.
        last = complete(asking, 300)
        assert last.choices[0].finish_reason == "error"
        assert last.model_extra["error"]["code"] == "insufficient_funds"
        with pytest.raises(openai.APIStatusError) as caught:
            complete(asking, 300)
        assert caught.value.status_code == 402

    signed = int(paid.account(key)["signed"])
    assert int(paid.account(key)["charged"]) <= signed
    asyncio.run(redeem(chain, paid, signed))


async def redeem(chain: ChainProcess, paid: Paid, signed: int) -> None:
    """As settlement does it: what is stored is good on the chain, and is paid once."""
    store = paid.billing.store
    payer = faucet(DEVELOPER)
    held = store.vouchers(due=True)
    assert [(each.payer, each.highest) for each in held] == [(payer.canonical, signed)]
    async with client(chain, GATEWAY_OWNER) as owner:
        before = (await owner.escrow.reservation(GATEWAY, payer.address)).amount
        credit = await owner.escrow.credit_of(GATEWAY)
        await owner.escrow.redeem_batch([each.voucher for each in held], [each.signature for each in held])
        redeemed = await owner.escrow.redeemed(payer.address, GATEWAY)
        store.mark_redeemed(payer.canonical, redeemed)
        assert redeemed == signed
        assert await owner.escrow.credit_of(GATEWAY) - credit == signed
        assert before - (await owner.escrow.reservation(GATEWAY, payer.address)).amount == signed
        with pytest.raises(NothingDue):
            await owner.escrow.redeem(held[0].voucher, held[0].signature)
        view = ChainEscrow(owner, GATEWAY, fresh=0.0)
        assert await view.deposit_of(payer.canonical) == Backing(FUNC - signed, signed), "cover stays what it was"
    assert store.vouchers(due=True) == []


def test_overdraw_replay_and_strangers_are_refused_by_what_the_chain_says(chain: ChainProcess, paid: Paid) -> None:
    developer, stranger = faucet(DEVELOPER), faucet(5)
    key = paid.key(developer)
    base = int(paid.account(key)["signed"])
    gateway = key_of(GATEWAY)

    def code(answer: httpx.Response) -> tuple[int, str | None]:
        return answer.status_code, answer.json().get("error", {}).get("code")

    with paid.http() as http:
        assert code(http.post("/mesh/keys", json=paid.key_request(stranger))) == (402, "insufficient_funds")
        theirs = paid.key_request(stranger, payer=developer.canonical)
        assert code(http.post("/mesh/keys", json=theirs)) == (403, "foreign_signer")
    assert code(paid.pay(key, FUNC + 1, developer)) == (402, "voucher_not_covered")
    assert code(paid.pay(key, base + 1000, stranger, payer=developer.canonical)) == (403, "foreign_signer")
    assert code(paid.pay(key, base + 1000, developer)) == (200, None)
    assert code(paid.pay(key, base + 1000, developer)) == (409, "voucher_not_higher")
    assert code(paid.pay(key, base + 999, developer)) == (409, "voucher_not_higher")
    (stored,) = paid.billing.store.vouchers()
    assert stored.voucher == PaymentVoucher(developer.canonical, gateway, base + 1000)


async def test_prices_and_deposits_are_the_chains(chain: ChainProcess) -> None:
    developer, signer = faucet(DEVELOPER), faucet(SIGNER)
    async with client(chain, DEVELOPER) as connected:
        prices = ChainPrices(connected, fresh=0.0)
        view = ChainEscrow(connected, GATEWAY, fresh=0.0)
        now = await prices.epoch()
        assert await prices.price_of(MODEL, digest_of(MODEL).hex(), now) == PRICE
        assert await prices.price_of("renamed", digest_of(MODEL).hex(), now) is None, "the name is what counts"
        assert await prices.price_of("x" * 65, digest_of(MODEL).hex(), now) is None, "no name is so long"
        assert await prices.price_of(MODEL, "ff" * 32, now) is None
        async with client(chain, CREATOR) as creator:
            await creator.models.create_model(
                "copycat", digest_of("pairs"), "", blocks=4, price_per_token=1, royalty_bps=0, model_stake_amount=FUNC
            )
            assert await prices.price_of("pairs", digest_of("pairs").hex(), now) == PRICE, "not the copy's"
            await creator.models.disable(2)
        assert await prices.price_of("pairs", digest_of("pairs").hex(), now) is None

        before = await view.deposit_of(developer.canonical)
        assert not await view.may_sign(developer.canonical, signer.canonical)
        await connected.escrow.authorize_signer(signer.address)
        assert await view.may_sign(developer.canonical, signer.canonical)
        await connected.escrow.thaw(GATEWAY, 1000)
        assert (await view.deposit_of(developer.canonical)).available == before.available - 1000
        await connected.escrow.cancel_thaw(GATEWAY)
        assert await view.deposit_of(bytes(20)) == Backing(0, 0)


async def test_an_answer_is_kept_while_the_node_is_away_but_not_for_long() -> None:
    now, asked, away = [0.0], [0], [False]

    async def ask(key: str) -> int:
        if away[0]:
            raise NodeUnreachable("gone")
        asked[0] += 1
        await asyncio.sleep(0)
        return asked[0]

    cached = Cached(ask, fresh=3.0, stale=60.0, most=2, clock=lambda: now[0])
    assert await asyncio.gather(*(cached.get("a") for _ in range(5))) == [1] * 5, "asked once"
    now[0] = 2.9
    assert await cached.get("a") == 1
    now[0] = 3.1
    assert await cached.get("a") == 1, "nobody waits for the newer answer"
    await asyncio.sleep(0.01)
    assert await cached.get("a") == 2
    away[0] = True
    now[0] = 60.0
    assert await cached.get("a") == 2
    now[0] = 64.0
    with pytest.raises(Unanswered):
        await cached.get("a")
    away[0] = False
    for key in "bcd":
        await cached.get(key)
    assert len(cached) == 2


async def test_closing_ends_what_is_being_asked() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def ask(key: str) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 1

    cached = Cached(ask, fresh=3.0)
    waiting = asyncio.create_task(cached.get("a"))
    await started.wait()
    await cached.close()
    assert cancelled.is_set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
