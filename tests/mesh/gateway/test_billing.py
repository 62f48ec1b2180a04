"""Paid requests through HTTP: keys, vouchers, what is charged, and what happens when nobody pays."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from chain.vouchers import Domain
from mesh.gateway.billing import BillingConfig
from mesh.payment.accounts.ports import Backing
from tests.mesh.gateway.paid import ANN, BOB, EVE, GATEWAY, PRICE, K, Paid, serving_paid

PROMPT = "the swarm"
PROMPT_TOKENS = len(PROMPT) + 1
ASK: dict[str, Any] = {"model": "echo", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True}


def cost(prompt: int, generated: int) -> int:
    return PRICE * (prompt + 4 * generated)


@pytest.fixture
def paid() -> Iterator[Paid]:
    with serving_paid() as running:
        yield running


def ask(paid: Paid, key: str | None, **changes: Any) -> httpx.Response:
    with paid.http(key) as http:
        return http.post("/v1/completions", json={**ASK, **changes})


def error_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"]


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# --- keys ---


def test_a_key_is_made_for_who_proves_that_the_deposit_is_his(paid: Paid) -> None:
    key = paid.key()
    assert key.startswith("sk-mesh-") and len(key) == 8 + 64
    account = paid.account(key)
    assert account["payer"] == ANN.address
    assert (account["signed"], account["credit"], account["deposit"]) == ("0", "0", str(10**18))
    assert account["prices"]["echo"] == str(PRICE)
    assert account["increment"] == str(PRICE * K)


def test_without_a_key_nothing_is_answered(paid: Paid) -> None:
    for key in (None, "sk-mesh-" + "0" * 64, "sk-méh"):
        with paid.http() as http:
            headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
            for path in ("/v1/models", "/mesh/account", "/mesh/status"):
                assert error_of(http.get(path, headers=headers)) == (401, "invalid_api_key")
            for path in ("/v1/completions", "/mesh/payments", "/mesh/keys/revoke"):
                assert error_of(http.post(path, json={}, headers=headers)) == (401, "invalid_api_key")
            assert http.get("/mesh/terms", headers=headers).json()["gateway"] == GATEWAY


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"gateway": "another"}, 400, "wrong_gateway"),
        ({"chain_id": 1}, 400, "wrong_gateway"),
        ({"escrow": bytes(20)}, 400, "wrong_gateway"),
        ({"issued": 1_000_000_000}, 400, "request_expired"),
        ({"issued": 1 << 60}, 400, "request_expired"),
    ],
)
def test_a_request_for_a_key_is_for_one_gateway_and_a_short_time(
    paid: Paid, changes: dict[str, Any], status: int, code: str
) -> None:
    with paid.http() as http:
        assert error_of(http.post("/mesh/keys", json=paid.key_request(ANN, **changes))) == (status, code)


def test_a_request_for_a_key_is_good_once(paid: Paid) -> None:
    body = paid.key_request(ANN)
    with paid.http() as http:
        assert http.post("/mesh/keys", json=body).status_code == 200
        assert error_of(http.post("/mesh/keys", json=body)) == (409, "key_refused")


def test_nobody_gets_a_key_for_the_deposit_of_another(paid: Paid) -> None:
    with paid.http() as http:
        theirs = paid.key_request(EVE, payer=ANN.canonical)
        assert error_of(http.post("/mesh/keys", json=theirs)) == (403, "foreign_signer")
        changed = paid.key_request(EVE) | {"payer": ANN.address}
        assert error_of(http.post("/mesh/keys", json=changed)) == (403, "foreign_signer")
        broken = paid.key_request(ANN) | {"signature": "0x" + "00" * 65}
        assert error_of(http.post("/mesh/keys", json=broken)) == (400, "invalid_signature")
        assert error_of(http.post("/mesh/keys", json=paid.key_request(BOB))) == (402, "insufficient_funds")


def test_a_key_that_its_owner_authorised_may_ask_for_a_key_and_sign_vouchers(paid: Paid) -> None:
    paid.chain.signers.add((ANN.canonical, BOB.canonical))
    key = paid.key(BOB, payer=ANN.canonical)
    assert paid.account(key)["payer"] == ANN.address
    answer = paid.pay(key, 100, BOB, payer=ANN.canonical)
    assert answer.json()["credit"] == "100"


def test_a_revoked_key_opens_nothing(paid: Paid) -> None:
    key, other = paid.key(), paid.key()
    with paid.http(key) as http:
        assert http.post("/mesh/keys/revoke").json() == {"object": "mesh.key", "revoked": True}
        assert http.get("/mesh/account").status_code == 401
    assert paid.account(other)["payer"] == ANN.address


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"payer": 5}', b"\xff", b"{" * 5000, b'{"x":"' + b"y" * 5000])
def test_a_body_that_makes_no_sense_is_refused(paid: Paid, body: bytes) -> None:
    with paid.http(paid.key()) as http:
        for path in ("/mesh/keys", "/mesh/payments"):
            given = http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert given.status_code in (400, 413)
        assert http.get("/mesh/account", params={"wait": "inf"}).status_code == 400
        assert http.get("/mesh/account", params={"wait": "31"}).status_code == 400
        assert http.get("/mesh/account", params={"wait": "0", "spent": "-1"}).status_code == 400


def test_an_agent_that_leaves_while_it_waits_for_news_is_not_waited_for(paid: Paid) -> None:
    """Else a gateway that stops would stand there for half a minute."""
    key = paid.key()
    caller = paid.billing.caller(key)
    assert caller is not None
    holder = caller.holder
    with paid.http(key) as http, pytest.raises(httpx.ReadTimeout):
        http.get("/mesh/account", params={"wait": "30", "spent": "0"}, timeout=0.3)
    assert paid.billing.has_agent(holder)
    deadline = time.monotonic() + 5.0
    while holder.agents and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holder.agents == 0


# --- vouchers ---


def test_replayed_lower_foreign_and_uncovered_vouchers_are_refused(paid: Paid) -> None:
    paid.chain.deposit(BOB, 10**18)
    key, theirs = paid.key(), paid.key(BOB)
    assert paid.pay(key, 1000).json()["signed"] == "1000"
    assert error_of(paid.pay(key, 1000)) == (409, "voucher_not_higher")
    assert error_of(paid.pay(key, 999)) == (409, "voucher_not_higher")
    assert error_of(paid.pay(key, 10**18 + 1)) == (402, "voucher_not_covered")
    assert error_of(paid.pay(key, 2000, EVE, payer=ANN.canonical)) == (403, "foreign_signer")
    assert error_of(paid.pay(key, 2000, gateway=bytes(32))) == (400, "foreign_voucher")
    assert error_of(paid.pay(theirs, 2000, ANN)) == (400, "foreign_voucher")
    elsewhere = Domain(1, paid.domain.contract)
    assert error_of(paid.pay(key, 2000, domain=elsewhere)) == (403, "foreign_signer")
    changed = paid.voucher(2000) | {"cumulative_amount": "3000"}
    with paid.http(key) as http:
        assert error_of(http.post("/mesh/payments", json=changed)) == (403, "foreign_signer")
        for amount in ("-1", "1e3", "01", "", "9" * 40, "1.5", "٣"):
            assert http.post("/mesh/payments", json=paid.voucher(5) | {"cumulative_amount": amount}).status_code == 400
    assert paid.account(key)["signed"] == "1000"
    assert paid.account(theirs)["signed"] == "0"
    assert [(each.payer, each.highest) for each in paid.billing.store.vouchers()] == [(ANN.canonical, 1000)]


def test_a_voucher_is_covered_by_what_is_left_and_what_was_redeemed(paid: Paid) -> None:
    paid.chain.deposits[ANN.canonical] = Backing(available=50, redeemed=70)
    key = paid.key()
    assert paid.account(key)["signed"] == "70", "what was redeemed before we knew the account is not credit"
    assert error_of(paid.pay(key, 121)) == (402, "voucher_not_covered")
    assert paid.pay(key, 120).json()["credit"] == "50"


# --- what is charged ---


def test_a_request_without_a_voucher_is_refused_with_402(paid: Paid) -> None:
    with paid.openai(paid.key()) as client, pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**{key: value for key, value in ASK.items() if key != "ignore_eos"})
    assert caught.value.status_code == 402
    assert caught.value.code == "insufficient_funds"
    assert not paid.backend.requests, "no work was done for it"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_costs_its_tokens_and_says_so(paid: Paid, stream: bool) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    answer = ask(paid, key, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    usage = events(answer)[-2]["usage"] if stream else answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, 8)
    assert usage["cost"] == {"wei": str(cost(PROMPT_TOKENS, 8)), "func": "0.000042"}
    account = paid.account(key)
    assert account["charged"] == account["spent"] == str(cost(PROMPT_TOKENS, 8))
    assert account["credit"] == str(10**17 - cost(PROMPT_TOKENS, 8))
    assert account["running_requests"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_tokens_that_were_not_run_cost_a_quarter_and_are_named(paid: Paid, stream: bool) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    body = {"model": "remembers", "stream": stream}
    answer = ask(paid, key, **body, **({"stream_options": {"include_usage": True}} if stream else {}))
    usage = events(answer)[-2]["usage"] if stream else answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["prompt_tokens_details"]) == (PROMPT_TOKENS, {"cached_tokens": 6})
    due = cost(PROMPT_TOKENS - 6 + 2, 8)
    assert int(usage["cost"]["wei"]) == due
    assert paid.account(key)["charged"] == str(due)
    assert paid.account(key)["credit"] == str(10**17 - due), "and nothing stays reserved"


def test_every_choice_is_charged_for_the_prompt_that_it_runs(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    usage = ask(paid, key, n=3).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, 24)
    assert int(usage["cost"]["wei"]) == cost(3 * PROMPT_TOKENS, 24)
    scored = ask(paid, key, max_tokens=0, echo=True, logprobs=0).json()["usage"]
    assert scored["completion_tokens"] == 0
    assert int(scored["cost"]["wei"]) == cost(PROMPT_TOKENS, 1), "the hops ran a step for it"


def test_costs_add_up_to_what_is_charged_and_what_is_written_down(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda size: ask(paid, key, max_tokens=size, n=2), [1, 40, 7, 80, 3, 64]))
    costs = [int(answer.json()["usage"]["cost"]["wei"]) for answer in answers]
    assert sum(costs) == int(paid.account(key)["charged"]) == paid.billing.store.charged_total()
    assert sorted(costs) == sorted(each.amount for each in paid.billing.store.charges())


@pytest.mark.parametrize("seed", range(2))
def test_whatever_comes_together_nobody_gets_more_than_was_signed_and_the_books_agree(seed: int) -> None:
    draw = random.Random(seed)
    with serving_paid(config=BillingConfig(increment_tokens=K, pause_seconds=0.5)) as paid:
        key = paid.key()
        signed, got = cost(PROMPT_TOKENS, 20), 0
        paid.pay(key, signed)
        plans = [
            (
                draw.choice(("echo", "slow", "lost-midway")),
                draw.randrange(1, 60),
                draw.randrange(1, 4),
                draw.random() < 0.3,
            )
            for _ in range(16)
        ]

        def one(plan: tuple[str, int, int, bool]) -> int:
            """Wei of what reached us."""
            model, tokens, n, leaves = plan
            body = {**ASK, "model": model, "max_tokens": tokens, "n": n, "stream": True}
            pieces = 0
            with paid.http(key) as http, http.stream("POST", "/v1/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if not line.startswith('data: {"id"'):
                        continue
                    pieces += len(json.loads(line[6:])["choices"][0]["text"])
                    if leaves and pieces > tokens // 2:
                        break
            return cost(n * PROMPT_TOKENS, pieces) if pieces else 0

        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(one, plan) for plan in plans]
            while not all(each.done() for each in asked):
                account = paid.account(key)
                assert int(account["charged"]) <= int(account["signed"]) == signed
                if account["waiting_requests"] and draw.random() < 0.5:
                    signed += draw.randrange(1, 100) * PRICE
                    assert paid.pay(key, signed).status_code == 200
            got = sum(each.result() for each in asked)
        deadline = time.monotonic() + 10
        while paid.account(key)["running_requests"]:
            assert time.monotonic() < deadline
        account = paid.account(key)
        assert 0 < got <= int(account["charged"]) <= signed
        assert account["charged"] == account["spent"] == str(paid.billing.store.charged_total())
        assert sum(each.amount for each in paid.billing.store.charges()) == int(account["charged"])
        assert all(each.done for each in paid.billing.store.charges())


def test_what_the_swarm_failed_to_give_is_not_charged(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    for stream in (False, True):
        for model in ("peer-lost", "refuses", "incomplete"):
            assert ask(paid, key, model=model, stream=stream).status_code >= 429
            account = paid.account(key)
            assert (account["charged"], account["pending"]) == ("0", "0"), model
    got = events(ask(paid, key, model="lost-midway", stream=True))
    assert got[-1]["error"]["code"] == "peer_error"
    tokens = sum(len(each["choices"]) for each in got[:-1] if each.get("choices") and each["choices"][0]["text"])
    assert int(paid.account(key)["charged"]) == cost(PROMPT_TOKENS, tokens), "what was streamed is"


def test_who_leaves_pays_for_what_was_generated_until_then(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    with (
        paid.http(key) as http,
        http.stream(
            "POST", "/v1/completions", json={**ASK, "model": "slow", "stream": True, "max_tokens": 5000}
        ) as answer,
    ):
        lines = answer.iter_lines()
        for _ in range(6):
            next(lines)
    assert paid.backend.cancelled.acquire(timeout=10)
    deadline = time.monotonic() + 10
    while paid.account(key)["running_requests"]:
        assert time.monotonic() < deadline
    charged = int(paid.account(key)["charged"])
    assert cost(PROMPT_TOKENS, 3) <= charged <= cost(PROMPT_TOKENS, 200)
    assert charged == paid.billing.store.charged_total()


def test_a_stream_whose_credit_is_used_up_ends_with_402_and_gives_no_more_than_was_signed(paid: Paid) -> None:
    key = paid.key()
    signed = cost(PROMPT_TOKENS, 10)
    paid.pay(key, signed)
    got = events(ask(paid, key, stream=True, max_tokens=100))
    assert got[-1]["error"]["code"] == "insufficient_funds"
    assert sum(len(each["choices"][0]["text"]) for each in got[:-1]) <= 10
    assert int(paid.account(key)["charged"]) <= signed
    whole = ask(paid, key, max_tokens=100)
    assert error_of(whole) == (402, "insufficient_funds")
    assert int(paid.account(key)["charged"]) <= signed


def test_a_stream_that_waits_goes_on_when_a_voucher_comes() -> None:
    with serving_paid(config=BillingConfig(increment_tokens=K, pause_seconds=20)) as paid:
        key = paid.key()
        paid.pay(key, cost(PROMPT_TOKENS, 10))
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, paid, key, stream=True, max_tokens=60)
            deadline = time.monotonic() + 10
            while not paid.account(key)["waiting_requests"]:
                assert time.monotonic() < deadline and not asked.done()
            paid.pay(key, cost(PROMPT_TOKENS, 60))
            got = events(asked.result(20))
        assert got[-1] == "[DONE]"
        assert sum(len(each["choices"][0]["text"]) for each in got[:-1]) == 60
        assert int(paid.account(key)["charged"]) == cost(PROMPT_TOKENS, 60)


def test_a_deposit_that_is_withdrawn_is_no_credit_any_more(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, 10**17)
    assert ask(paid, key).status_code == 200
    paid.chain.deposit(ANN, 1)
    answer = ask(paid, key)
    assert error_of(answer) == (402, "insufficient_funds")
    assert "the escrow holds only" in answer.json()["error"]["message"]


def test_a_model_without_a_price_is_not_for_sale_and_a_free_one_costs_nothing(paid: Paid) -> None:
    key = paid.key()
    del paid.chain.prices["no-bos"]
    assert error_of(ask(paid, key, model="no-bos")) == (404, "model_not_priced")
    paid.chain.prices["echo"] = 0
    assert ask(paid, key).json()["usage"]["cost"] == {"wei": "0", "func": "0"}


def test_a_chain_that_cannot_be_reached_is_said_to_be_so(paid: Paid) -> None:
    key = paid.key()
    paid.chain.down = True
    answer = ask(paid, key)
    assert error_of(answer) == (503, "chain_unavailable")
    assert "retry-after" in answer.headers
