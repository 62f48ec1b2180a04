"""Charged as accrued: what has come is paid for, however the request ends, at the price of when it came; no more."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from mesh.gateway.billing import BillingConfig
from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.paid import ANN, PRICE, K, Paid, serving_paid
from tests.mesh.gateway.test_billing import ASK, PROMPT_TOKENS, ask, cost, error_of, events

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture
def paid() -> Iterator[Paid]:
    with serving_paid() as running:
        yield running


@pytest.fixture
def key(paid: Paid) -> str:
    made = paid.key()
    paid.pay(made, 10**17)
    return made


def settled(paid: Paid, key: str) -> int:
    """What is charged once nothing runs any more."""
    deadline = time.monotonic() + 10
    while paid.account(key)["running_requests"]:
        assert time.monotonic() < deadline
    account = paid.account(key)
    assert account["charged"] == account["spent"] == str(paid.billing.store.charged_total())
    assert account["pending"] == "0"
    return int(account["charged"])


@pytest.mark.parametrize(
    ("model", "code"),
    [("lost-midway", "peer_error"), ("group-midway", "peer_timeout"), ("crash-midway", "internal_error")],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_an_answer_in_one_piece_that_fails_is_what_had_come_and_costs_that(
    paid: Paid, key: str, model: str, code: str, path: str
) -> None:
    body = {**(CHAT if "chat" in path else ASK), "model": model, "return_token_ids": True}
    with paid.http(key) as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 200
    said = answer.json()
    (choice,) = said["choices"]
    assert choice["finish_reason"] == "error" and len(choice["token_ids"]) == 3
    assert said["error"]["code"] == code and set(said["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
    usage = said["usage"]
    assert usage["completion_tokens"] == 3
    assert int(usage["cost"]["wei"]) == cost(usage["prompt_tokens"], 3) == settled(paid, key)


def test_where_nobody_pays_a_failure_is_an_error_as_before() -> None:
    with serving_paid(gateway=GatewayConfig(api_keys=frozenset({"mine"}))) as paid:
        assert error_of(ask(paid, "mine", model="lost-midway")) == (502, "peer_error")


def test_choices_that_ended_keep_their_reason_and_all_that_came_is_charged(paid: Paid, key: str) -> None:
    said = ask(paid, key, model="lost-midway", prompt=["a", "b"], max_tokens=3, ignore_eos=True).json()
    assert [choice["finish_reason"] for choice in said["choices"]] == ["length", "length"]
    said = ask(paid, key, model="lost-midway", n=2).json()
    assert {choice["finish_reason"] for choice in said["choices"]} == {"error"}
    assert int(said["usage"]["cost"]["wei"]) >= cost(PROMPT_TOKENS, said["usage"]["completion_tokens"])


def test_a_prompt_is_reserved_while_it_runs_and_given_back_when_no_token_comes(paid: Paid, key: str) -> None:
    body = {**ASK, "model": "stuck", "prompt": "x" * 50, "stream": True}
    with paid.http(key) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/completions", json=body, timeout=0.5)
    running = paid.account(key)
    if running["running_requests"]:
        assert int(running["pending"]) >= cost(51, 0) and running["charged"] == "0"
    assert settled(paid, key) == 0
    assert paid.account(key)["credit"] == str(10**17)


def test_a_prompt_that_the_credit_does_not_cover_is_not_run() -> None:
    with serving_paid() as paid:
        key = paid.key()
        paid.pay(key, cost(30, 4))
        assert error_of(ask(paid, key, prompt="x" * 50)) == (402, "insufficient_funds")
        assert not paid.backend.requests
        assert ask(paid, key, prompt="x" * 20, max_tokens=2).status_code == 200


def test_a_part_of_a_token_that_could_not_be_paid_for_whole_costs_nothing(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, cost(PROMPT_TOKENS, 7) + 3 * PRICE)
    said = ask(paid, key, max_tokens=50).json()
    assert said["error"]["code"] == "insufficient_funds"
    assert said["usage"]["completion_tokens"] == 7
    assert settled(paid, key) == cost(PROMPT_TOKENS, 7)


def test_a_price_that_changes_binds_from_its_epoch_on_in_the_middle_of_a_request(paid: Paid, key: str) -> None:
    paid.chain.changes["slow", 2] = 3 * PRICE
    body = {**ASK, "model": "slow", "max_tokens": 150, "stream": True}
    seen = at_turn = 0
    with paid.http(key) as http, http.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith('data: {"id"'):
                seen += len(json.loads(line[6:])["choices"][0]["text"])
                if seen >= 20 and not at_turn:
                    at_turn = seen
                    paid.chain.now = 2
    dear = (settled(paid, key) - cost(PROMPT_TOKENS, 150)) // (2 * 4 * PRICE)
    assert settled(paid, key) == cost(PROMPT_TOKENS, 150 - dear) + 3 * cost(0, dear)
    assert 0 < dear <= 150 - at_turn


def test_a_price_that_rises_next_epoch_is_reserved_for_before_the_prompt_is_run(paid: Paid) -> None:
    key = paid.key()
    paid.pay(key, cost(PROMPT_TOKENS, 1))
    assert ask(paid, key, max_tokens=1).status_code == 200
    paid.pay(key, 2 * cost(PROMPT_TOKENS, 1))
    paid.chain.changes["echo", paid.chain.now + 1] = 2 * PRICE
    assert error_of(ask(paid, key, max_tokens=1)) == (402, "insufficient_funds")
    assert len(paid.backend.requests) == 1


def test_a_model_that_is_withdrawn_in_the_middle_ends_the_request_and_keeps_what_came(paid: Paid, key: str) -> None:
    body = {**ASK, "model": "slow", "max_tokens": 60, "stream": True}
    with paid.http(key) as http, http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        del paid.chain.prices["slow"]
        rest = list(lines)
    assert json.loads(rest[-2][6:])["error"]["code"] == "model_not_priced"
    assert 0 < settled(paid, key) < cost(PROMPT_TOKENS, 60)


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_that_had_come_when_a_stop_string_ended_the_answer_are_charged(
    paid: Paid, key: str, stream: bool
) -> None:
    """Else many short answers would be cheap for the developer and dear for the gateway."""
    whole = ask(paid, key, max_tokens=8).json()["choices"][0]["text"]
    before = settled(paid, key)
    answer = ask(paid, key, model="ahead", stop=whole[3], stream=stream)
    usage = {"completion_tokens": 4} if stream else answer.json()["usage"]
    if stream:
        assert events(answer)[-1] == "[DONE]"
    assert settled(paid, key) - before == cost(PROMPT_TOKENS, usage["completion_tokens"] + 5)


def test_tokens_that_had_come_when_the_client_left_are_charged_as_far_as_there_is_credit(paid: Paid) -> None:
    for credit, least, most in ((10**17, cost(PROMPT_TOKENS, 1 + 5), 10**17), (cost(PROMPT_TOKENS, 6), 0, 10**17)):
        with serving_paid(config=BillingConfig(increment_tokens=K, pause_seconds=0.3)) as one:
            key = one.key(ANN)
            one.pay(key, credit)
            body = {**ASK, "model": "ahead", "max_tokens": 500, "stream": True}
            with one.http(key) as http, http.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
            charged = settled(one, key)
            assert least <= charged <= min(most, credit)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_fails_the_charge_is_what_came_and_nothing_stays_reserved(seed: int) -> None:
    draw = random.Random(seed)
    with serving_paid(config=BillingConfig(increment_tokens=K, pause_seconds=0.3)) as paid:
        key = paid.key()
        paid.pay(key, 10**17)

        def one(model: str, tokens: int, n: int) -> tuple[int, int]:
            """What the answer says that it cost, and the least that it may have cost."""
            said = ask(paid, key, model=model, max_tokens=tokens, n=n).json()
            if "usage" not in said:
                return 0, 0
            usage = said["usage"]
            return int(usage["cost"]["wei"]), cost(PROMPT_TOKENS, usage["completion_tokens"])

        plans = [
            (draw.choice(["echo", "pairs", "lost-midway", "crash-midway", "peer-lost", "refuses"]), tokens, n)
            for tokens, n in ((draw.randrange(1, 40), draw.randrange(1, 4)) for _ in range(20))
        ]
        with ThreadPoolExecutor(4) as pool:
            costs = list(pool.map(lambda plan: one(*plan), plans))
        assert all(least <= said for said, least in costs)
        assert sum(said for said, _ in costs) == settled(paid, key)
        assert int(paid.account(key)["credit"]) == 10**17 - settled(paid, key)
