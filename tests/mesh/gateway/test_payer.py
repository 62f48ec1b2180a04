"""The payer's agent against a gateway over HTTP: it keeps requests running and never signs more than it may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from chain.vouchers import Domain
from mesh.client.gateway_http import GatewayHttp
from mesh.client.payer import Paid as State
from mesh.client.payer import Payer
from mesh.client.payer_store import PayerStore
from mesh.errors import ConfigError, MeshError, PaymentRefused, PeerUnreachable, ProtocolViolation
from mesh.gateway.billing import BillingConfig
from tests.mesh.gateway.paid import ANN, BOB, EVE, GATEWAY, PRICE, K, Paid, serving_paid
from tests.mesh.gateway.test_billing import ASK, PROMPT_TOKENS, cost, error_of, events

INCREMENT = PRICE * K
FIRST = cost(PROMPT_TOKENS, K // 16)
"""What a request needs before its first token: its prompt, and a step of the increment."""


@pytest.fixture
def paid() -> Iterator[Paid]:
    with serving_paid(config=BillingConfig(increment_tokens=K, pause_seconds=10)) as running:
        yield running


async def post(paid: Paid, key: str, **changes: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=paid.url, timeout=30, headers={"Authorization": f"Bearer {key}"}) as http:
        return await http.post("/v1/completions", json={**ASK, **changes})


async def test_answers_of_any_length_run_on_one_increment_of_credit(paid: Paid) -> None:
    key = paid.key()
    most = 0
    async with Payer(paid.url, key, ANN, beside=True) as payer:
        assert payer.paid.signed == INCREMENT
        answer = await post(paid, key, max_tokens=300)
        assert answer.json()["usage"]["cost"]["wei"] == str(cost(PROMPT_TOKENS, 300))
        long_prompt = await post(paid, key, prompt="x" * 400, max_tokens=4)
        assert int(long_prompt.json()["usage"]["cost"]["wei"]) == cost(401, 4)
        got = events(await post(paid, key, max_tokens=200, stream=True))
        assert got[-1] == "[DONE]"
        state = await payer.pay_now()
        most = max(most, state.signed)
    assert state.used == state.spent == cost(PROMPT_TOKENS, 300) + cost(401, 4) + cost(PROMPT_TOKENS, 200)
    assert state.spent <= state.signed <= state.spent + INCREMENT
    assert state.promised == state.signed


async def test_several_requests_at_once_share_one_increment(paid: Paid) -> None:
    key = paid.key()
    async with Payer(paid.url, key, ANN, beside=True) as payer:
        answers = await asyncio.gather(*(post(paid, key, max_tokens=40 + each, n=2) for each in range(8)))
        costs = [int(answer.json()["usage"]["cost"]["wei"]) for answer in answers]
        assert (await payer.pay_now()).spent == sum(costs)


async def test_the_agent_is_never_more_than_an_increment_and_what_a_prompt_needs_ahead(paid: Paid) -> None:
    key = paid.key()
    async with Payer(paid.url, key, ANN, beside=True):
        asked = asyncio.create_task(post(paid, key, model="slow", max_tokens=100))
        while not asked.done():
            account = await asyncio.to_thread(paid.account, key)
            assert int(account["signed"]) <= int(account["spent"]) + INCREMENT + FIRST
            assert int(account["charged"]) <= int(account["signed"])
        assert (await asked).status_code == 200


async def test_a_budget_is_never_passed(paid: Paid) -> None:
    key = paid.key()
    async with Payer(paid.url, key, ANN, budget=cost(PROMPT_TOKENS, 50), beside=True) as payer:
        answer = await post(paid, key, max_tokens=40)
        assert answer.status_code == 200
        paid.billing.config = BillingConfig(increment_tokens=K, pause_seconds=0.3)
        answer = await post(paid, key, max_tokens=40)
        assert error_of(answer) == (200, "insufficient_funds"), "what had come is given out, and charged"
        assert answer.json()["usage"]["completion_tokens"] == 7
        assert error_of(await post(paid, key, max_tokens=40)) == (402, "insufficient_funds")
        state = await payer.pay_now()
        assert state.exhausted
        assert state.signed == state.limit == cost(PROMPT_TOKENS, 50)
    async with Payer(paid.url, key, ANN, budget=cost(PROMPT_TOKENS, 50), beside=True):
        assert (await post(paid, key, max_tokens=40)).status_code == 200, "a new run has a new budget"


async def test_a_payer_may_be_less_ahead_than_the_gateway_asks_for(paid: Paid) -> None:
    key = paid.key()
    async with Payer(paid.url, key, ANN, ahead=INCREMENT // 2, beside=True) as payer:
        assert payer.paid.signed == INCREMENT // 2
        assert (await post(paid, key, max_tokens=100)).status_code == 200


async def test_where_nothing_passes_through_it_nothing_is_signed_and_then_only_for_what_came(paid: Paid) -> None:
    paid.billing.config = BillingConfig(increment_tokens=K, pause_seconds=0.3)
    key = paid.key()
    async with Payer(paid.url, key, ANN, ahead=INCREMENT + FIRST) as payer:
        assert error_of(await post(paid, key, max_tokens=100)) == (402, "insufficient_funds")
        assert (await payer.pay_now()).promised == 0, "somebody asked, and we did not see it"
        async with payer.request() as asked:
            assert error_of(await post(paid, key, max_tokens=100)) == (200, "insufficient_funds")
            before = (await payer.pay_now()).signed
            assert INCREMENT <= before <= INCREMENT + FIRST, "the gateway says that it gave more, and that did not come"
            asked.got = cost(PROMPT_TOKENS, 10)
            state = await payer.pay_now()
            assert before < state.signed <= INCREMENT + FIRST + cost(PROMPT_TOKENS, 10)
        assert (await payer.pay_now()).promised == state.promised


async def test_the_deposit_is_never_passed_and_more_of_it_is_used_when_it_comes(paid: Paid) -> None:
    paid.chain.deposit(ANN, 10)
    key = paid.key()
    async with Payer(paid.url, key, ANN, beside=True) as payer:
        assert payer.paid.signed == 10 and payer.paid.exhausted
        paid.chain.deposit(ANN, 10**18)
        assert (await payer.pay_now()).signed == INCREMENT


async def test_what_is_promised_is_on_disk_before_it_is_sent(paid: Paid, tmp_path: Path) -> None:
    path = tmp_path / "promises.sqlite"
    key = paid.key()
    seen: list[int] = []
    original = GatewayHttp.pay

    async def watched(self: GatewayHttp, account: Any, voucher: Any, domain: Domain) -> Any:
        with PayerStore(path) as store:
            seen.append(store.highest(domain, voucher.payer, GATEWAY) - voucher.cumulative_amount)
        return await original(self, account, voucher, domain)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GatewayHttp, "pay", watched)
        async with Payer(paid.url, key, ANN, store=path, beside=True) as payer:
            await post(paid, key, max_tokens=100)
            signed = (await payer.pay_now()).signed
    assert len(seen) > 3 and set(seen) == {0}
    with PayerStore(path) as store:
        store.promise(paid.domain, ANN.canonical, GATEWAY, 5)
        assert store.highest(paid.domain, ANN.canonical, GATEWAY) == signed
        assert store.highest(Domain(1, paid.domain.contract), ANN.canonical, GATEWAY) == 0
    async with Payer(paid.url, key, ANN, store=path, beside=True) as payer:
        assert payer.paid.promised >= signed


async def test_the_agent_pays_only_whom_it_was_told_to(paid: Paid) -> None:
    paid.chain.deposit(EVE, 10**18)
    key = paid.key()
    with pytest.raises(ConfigError, match="is paid on chain 31337"):
        async with Payer(paid.url, key, ANN, domain=Domain(1, paid.domain.contract), beside=True):
            pass
    with pytest.raises(ConfigError, match="not 'other'"):
        async with Payer(paid.url, key, ANN, gateway="other", beside=True):
            pass
    with pytest.raises(ConfigError, match="not of " + EVE.address):
        async with Payer(paid.url, key, EVE, beside=True):
            pass
    with pytest.raises(PaymentRefused) as caught:
        async with Payer(paid.url, "sk-mesh-" + "0" * 64, ANN, beside=True):
            pass
    assert caught.value.code == "invalid_api_key"
    assert int(paid.account(key)["signed"]) == 0


async def test_an_authorised_key_pays_from_the_deposit_of_its_owner(paid: Paid) -> None:
    paid.chain.signers.add((ANN.canonical, BOB.canonical))
    async with GatewayHttp(paid.url + "/v1/") as gateway:
        key = await gateway.make_key(BOB, ANN.canonical, await gateway.terms())
    async with Payer(paid.url, key, BOB, payer=ANN.canonical, beside=True):
        assert (await post(paid, key)).status_code == 200


async def test_a_key_that_is_revoked_ends_the_agent(paid: Paid) -> None:
    key = paid.key()
    with pytest.raises(PaymentRefused) as caught:
        async with Payer(paid.url, key, ANN, beside=True) as payer:
            async with GatewayHttp(paid.url, key) as gateway:
                await gateway.revoke_key()
            async with asyncio.timeout(15):
                await payer.finished()
    assert caught.value.code == "invalid_api_key"


async def test_a_gateway_that_is_away_for_a_while_is_asked_again() -> None:
    changed, away = asyncio.Event(), asyncio.Event()

    def heard(state: State) -> None:
        (changed if state.reachable and away.is_set() else asyncio.Event()).set()
        if not state.reachable:
            away.set()

    with serving_paid() as paid:
        key = paid.key()
        async with Payer(paid.url, key, ANN, on_change=heard, beside=True), asyncio.timeout(30):
            paid.chain.down = True
            with pytest.raises(PeerUnreachable):
                async with GatewayHttp(paid.url, key) as gateway:
                    await gateway.account()
            await away.wait()
            paid.chain.down = False
            await changed.wait()


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[]", b"\xff", b"[" * 10_000, b'{"gateway": "g", "chain_id": true}', b"x" * (2 << 20)],
)
async def test_an_answer_that_makes_no_sense_is_refused(answer: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(answer) + answer)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ProtocolViolation):
            async with GatewayHttp(url) as gateway:
                await gateway.terms()


async def test_what_is_no_address_and_where_nobody_listens_is_said_so() -> None:
    for url in ("", "ftp://x", "127.0.0.1:8000", "http://"):
        with pytest.raises(ConfigError):
            GatewayHttp(url)
    with pytest.raises(MeshError):
        async with GatewayHttp("http://127.0.0.1:9") as gateway:
            await gateway.terms()
