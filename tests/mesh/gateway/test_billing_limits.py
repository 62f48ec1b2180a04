"""Limits of paying keys: how often, how many tokens, whose places; and what paid accounts leave as it was."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import httpx

from mesh.gateway.billing import BillingConfig
from mesh.gateway.config import GatewayConfig
from mesh.payment.accounts.ports import Backing
from mesh.payment.accounts.store import AccountStore
from tests.mesh.gateway.paid import ANN, BOB, GATEWAY, PRICE, K, MemoryChain, serving_paid
from tests.mesh.gateway.test_billing import PROMPT_TOKENS, ask, cost, error_of


def test_a_key_that_asks_too_often_is_told_when_to_come_back() -> None:
    config = BillingConfig(increment_tokens=K, requests_per_minute=2, tokens_per_minute=1000)
    with serving_paid(config=config) as paid:
        key, other = paid.key(), paid.key()
        paid.pay(key, 10**17)
        assert [ask(paid, key).status_code for _ in range(3)] == [200, 200, 429]
        answer = ask(paid, key)
        assert error_of(answer) == (429, "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert ask(paid, other).status_code == 200, "limits are each key's own"


def test_a_key_that_uses_too_many_tokens_is_told_when_to_come_back() -> None:
    with serving_paid(config=BillingConfig(increment_tokens=K, tokens_per_minute=40)) as paid:
        key = paid.key()
        paid.pay(key, 10**17)
        assert ask(paid, key, max_tokens=60).status_code == 200
        answer = ask(paid, key)
        assert error_of(answer) == (429, "rate_limit_exceeded")
        assert "tokens a minute" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 30
        assert paid.account(key)["charged"] == str(cost(PROMPT_TOKENS, 60))


def test_looks_at_an_account_are_limited_too() -> None:
    config = BillingConfig(increment_tokens=K, account_calls_per_minute=3)
    with serving_paid(config=config) as paid:
        key = paid.key()
        assert [paid.pay(key, amount).status_code for amount in (1, 2, 3, 4)] == [200, 200, 200, 429]


def test_a_large_deposit_keeps_places_free_for_its_account() -> None:
    config = BillingConfig(increment_tokens=K, reserve_deposit=10**18, reserve_sessions=2)
    with serving_paid(config=config, gateway=GatewayConfig(max_concurrent=6)) as paid:
        paid.chain.deposit(BOB, 10**17)
        rich, poor = paid.key(), paid.key(BOB)
        paid.pay(rich, 10**17)
        paid.pay(poor, 10**17, BOB)
        assert paid.account(rich)["reserved_sessions"] == 2
        assert paid.account(poor)["reserved_sessions"] == 0

        def hold(key: str) -> None:
            with suppress(httpx.HTTPError):  # until the gateway stops
                ask(paid, key, model="stuck")

        holders = [threading.Thread(target=hold, args=(poor,), daemon=True) for _ in range(2)]
        for holder in holders:
            holder.start()
        for _ in holders:
            assert paid.backend.opened.acquire(timeout=10)
        assert error_of(ask(paid, poor)) == (429, "at_capacity")
        assert ask(paid, rich).status_code == 200


def test_the_operators_own_keys_work_on_and_are_not_billed() -> None:
    with serving_paid(gateway=GatewayConfig(api_keys=frozenset({"mine"}))) as paid:
        answer = ask(paid, "mine")
        assert answer.status_code == 200
        assert "cost" not in answer.json()["usage"]
        with paid.http("mine") as http:
            assert http.get("/mesh/account").status_code == 403
        paid.pay(paid.key(), 10**17)
        assert ask(paid, paid.key()).json()["usage"]["cost"]["func"] == "0.000042"


def test_accounts_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    chain = MemoryChain({"echo": PRICE}, {ANN.canonical: Backing(10**18, 0)})
    with serving_paid(path, chain=chain) as paid:
        key = paid.key()
        paid.pay(key, 10**17)
        first = int(ask(paid, key).json()["usage"]["cost"]["wei"])
    with serving_paid(path, chain=chain) as paid:
        second = int(ask(paid, key).json()["usage"]["cost"]["wei"])
        account = paid.account(key)
        assert (account["signed"], account["charged"]) == (str(10**17), str(first + second))
        assert error_of(paid.pay(key, 10**17)) == (409, "voucher_not_higher")
    with AccountStore(path, GATEWAY) as store:
        assert [each.amount for each in store.charges()] == [second, first]
