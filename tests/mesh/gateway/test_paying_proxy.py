"""`mesh pay` between a client and a gateway: what passes is paid for, and nothing else; pages are kept out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI

from mesh.client.payer import DEFAULT_AHEAD, Payer
from mesh.gateway.billing import BillingConfig
from mesh.gateway.paying_proxy import MARGIN_TOKENS, paying_proxy
from mesh.gateway.serve import bind, server, url_of
from tests.mesh.gateway.conftest import serve_app
from tests.mesh.gateway.lying_gateway import HUGE, Liar, lying
from tests.mesh.gateway.paid import ANN, PRICE, K, Paid, serving_paid
from tests.mesh.gateway.test_billing import ASK, PROMPT_TOKENS, cost, events
from tests.mesh.gateway.test_payer_lies import says

INCREMENT = PRICE * K
MODEL = str(ASK["model"])


@pytest.fixture
def paid() -> Iterator[Paid]:
    with serving_paid(config=BillingConfig(increment_tokens=K, pause_seconds=10)) as running:
        yield running


@asynccontextmanager
async def through(url: str, key: str, *, asks: str | None = None, **bounds: Any) -> AsyncIterator[tuple[Payer, str]]:
    """An agent that listens, and where; what it passes on goes to `asks`, if that is somewhere else."""
    async with Payer(url, key, ANN, **bounds) as payer:
        with bind("127.0.0.1", 0) as listener:
            async with paying_proxy(payer, asks or url, key) as app, server(app, listener) as running:
                serving = asyncio.create_task(running.serve(sockets=[listener]))
                try:
                    yield payer, url_of("127.0.0.1", listener)
                finally:
                    running.should_exit = True
                    await serving


async def test_answers_of_all_apis_pass_and_their_cost_is_what_is_followed(paid: Paid) -> None:
    async with through(paid.url, paid.key()) as (payer, url):
        assert payer.paid.promised == 0
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        spent = 0
        whole = await client.completions.create(
            model=MODEL, prompt="ab", max_tokens=30, extra_body={"ignore_eos": True}
        )
        assert whole.usage.completion_tokens == 30  # type: ignore[union-attr]
        spent += int(whole.usage.model_extra["cost"]["wei"])  # type: ignore[union-attr, index]
        assert (await payer.pay_now()).spent == spent
        chat = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=20
        )
        spent += int(chat.usage.model_extra["cost"]["wei"])  # type: ignore[union-attr, index]
        said = await client.responses.create(model=MODEL, input="hello", max_output_tokens=16)
        spent += int(said.usage.model_extra["cost"]["wei"])  # type: ignore[union-attr, index]
        state = await payer.pay_now()
        assert state.spent == spent and state.promised <= spent + 2 * INCREMENT
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            talk = {"model": MODEL, "max_tokens": 12, "messages": [{"role": "user", "content": "hello"}]}
            said_so = await http.post("/v1/messages", json=talk)
            spent += int(said_so.json()["usage"]["cost"]["wei"])
            assert (await payer.pay_now()).spent == spent
            streamed = await http.post("/v1/messages", json={**talk, "stream": True})
            assert "message_stop" in streamed.text
            state = await payer.pay_now()
            assert state.spent > spent and payer._got == state.spent, "its usage is in the stream"
        assert [model.id async for model in client.models.list()]
        await client.close()


async def test_a_stream_far_longer_than_what_is_paid_ahead_runs_to_its_end(paid: Paid) -> None:
    async with through(paid.url, paid.key(), ahead=INCREMENT) as (payer, url), httpx.AsyncClient(timeout=60) as http:
        body = {**ASK, "max_tokens": 400, "stream": True}
        answer = await http.post(f"{url}/v1/completions", json=body)
        got = events(answer)
        assert got[-1] == "[DONE]" and all(chunk["choices"] for chunk in got[:-1]), "usage was not asked for"
        asked = await http.post(
            f"{url}/v1/completions", json={**body, "max_tokens": 8, "stream_options": {"include_usage": True}}
        )
        assert events(asked)[-2]["usage"]["cost"]["wei"] == str(cost(PROMPT_TOKENS, 8))
        state = await payer.pay_now()
        assert state.spent == cost(PROMPT_TOKENS, 400) + cost(PROMPT_TOKENS, 8) > 3 * INCREMENT
        assert state.promised <= state.spent + INCREMENT


async def test_a_gateway_of_which_nothing_is_asked_gets_nothing_whatever_it_says() -> None:
    for lies in ({"increment": HUGE, "pending": HUGE, "deposit": HUGE}, {"increment": HUGE, "credit": HUGE}):
        async with lying(Liar(says(**lies))) as liar:
            async with through(liar.url, "sk-mesh-x"):
                while liar.answers < 12:  # noqa: ASYNC110 - the liar counts
                    await asyncio.sleep(0.01)
            assert liar.vouchers == []


async def test_a_gateway_that_says_that_a_small_answer_cost_a_fortune_gets_what_that_can_have_cost() -> None:
    dear = FastAPI()

    @dear.post("/v1/completions")
    def completions() -> dict[str, Any]:
        return {"choices": [{"text": "x"}], "usage": {"cost": {"wei": HUGE}}}

    def spends(account: dict[str, Any], answers: int) -> None:
        account.update(spent=account["signed"], increment=HUGE, pending=HUGE, deposit=HUGE)

    with serve_app(dear) as url:
        async with lying(Liar(spends)) as liar, through(liar.url, "sk-mesh-x", asks=url, budget=10**30) as (payer, own):
            price = payer.price_of(MODEL)
            async with httpx.AsyncClient(timeout=30) as http:
                answer = await http.post(f"{own}/v1/completions", json={**ASK, "max_tokens": 4})
            assert answer.status_code == 200
            most = 2 * (len(answer.request.content) + MARGIN_TOKENS + 4 * 4) * price  # paid ahead for, and said to cost
            seen = liar.answers
            while liar.answers < seen + 6:  # noqa: ASYNC110 - the liar counts
                await asyncio.sleep(0.01)
            assert max(liar.vouchers) <= DEFAULT_AHEAD + most


async def test_pages_of_strangers_and_the_agents_own_paths_are_refused(paid: Paid) -> None:
    async with through(paid.url, paid.key()) as (payer, url), httpx.AsyncClient(timeout=30) as http:
        page = await http.post(f"{url}/v1/completions", json=ASK, headers={"origin": "https://evil.example"})
        named = await http.post(f"{url}/v1/completions", json=ASK, headers={"host": "evil.example"})
        form = await http.post(f"{url}/v1/completions", content="{}", headers={"content-type": "text/plain"})
        revoke = await http.post(f"{url}/mesh/keys/revoke", json={})
        assert [page.status_code, named.status_code, form.status_code, revoke.status_code] == [403, 403, 415, 403]
        assert payer.paid.promised == 0
        assert (await http.post(f"{url}/v1/completions", json={**ASK, "max_tokens": 2})).status_code == 200


async def test_a_gateway_that_is_away_is_an_error_that_says_so(paid: Paid) -> None:
    async with through(paid.url, paid.key(), asks="http://127.0.0.1:9") as (_, url), httpx.AsyncClient() as http:
        answer = await http.post(f"{url}/v1/completions", json=ASK)
        assert answer.status_code == 502 and "cannot be asked" in answer.json()["error"]["message"]
