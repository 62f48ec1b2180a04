"""Requests for API keys by strangers: they cost those who send them, never the developers who have a deposit."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter

import httpx
import pytest

from chain.primitives import Address
from chain.wallet import Account
from mesh.gateway.billing import BillingConfig
from mesh.gateway.errors import ApiFailure
from mesh.gateway.rate_limits import Buckets, CheckQueue
from mesh.payment.accounts.ports import Backing
from tests.mesh.gateway.paid import ANN, BOB, EVE, K, MemoryChain, Paid, serving_paid
from tests.mesh.gateway.test_billing import error_of

FEW = BillingConfig(increment_tokens=K, key_requests_per_minute=3, failed_key_requests_per_minute=3)


def post(paid: Paid, body: dict[str, object], source: str = "127.0.0.1") -> httpx.Response:
    """Send a request for a key from an address of this machine."""
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(base_url=paid.url, transport=transport, timeout=30) as http:
        return http.post("/mesh/keys", json=body)


@pytest.mark.parametrize("kind", ["no signature", "another's signature", "replayed", "expired", "elsewhere"])
def test_bogus_requests_do_not_keep_a_developer_with_a_deposit_from_its_key(kind: str) -> None:
    with serving_paid(config=FEW) as paid:
        good = paid.key_request(ANN)
        bogus: dict[str, dict[str, object]] = {
            "no signature": paid.key_request(EVE) | {"signature": "0x" + "00" * 65},
            "another's signature": paid.key_request(EVE) | {"payer": ANN.address},
            "replayed": good,
            "expired": paid.key_request(ANN, issued=1),
            "elsewhere": paid.key_request(ANN, gateway="another"),
        }
        if kind == "replayed":
            assert post(paid, good).status_code == 200
        for _ in range(125):
            assert post(paid, bogus[kind], "127.0.0.2").status_code in (400, 403, 409, 429)
        with paid.http() as http:
            assert http.post("/mesh/keys", json=paid.key_request(ANN)).status_code == 200


def test_bad_signatures_from_ones_own_address_do_no_harm_either() -> None:
    with serving_paid(config=FEW) as paid:
        said = [post(paid, paid.key_request(EVE) | {"signature": "0x" + "00" * 65}).status_code for _ in range(125)]
        assert Counter(said) == {400: 125}
        assert post(paid, paid.key_request(ANN)).status_code == 200


def test_strangers_without_a_deposit_use_up_their_own_address_only() -> None:
    with serving_paid(config=FEW) as paid:
        paid.key(ANN)
        strangers = [Account(bytes([number]) * 32) for number in range(10, 20)]
        said = [post(paid, paid.key_request(each), "127.0.0.2").status_code for each in strangers]
        assert said == [402] * 3 + [429] * 7
        paid.chain.deposit(BOB, 10**18)
        refused = post(paid, paid.key_request(BOB), "127.0.0.2")
        assert error_of(refused) == (429, "rate_limit_exceeded") and "retry-after" in refused.headers
        assert post(paid, paid.key_request(BOB), "127.0.0.3").status_code == 200
        assert post(paid, paid.key_request(ANN), "127.0.0.2").status_code == 200, "who is known is known there too"


def test_a_payer_has_a_bucket_that_nobody_else_draws_from() -> None:
    with serving_paid(config=FEW) as paid:
        paid.chain.deposit(BOB, 10**18)
        said = [post(paid, paid.key_request(ANN)).status_code for _ in range(5)]
        assert said == [200] * 3 + [429] * 2
        assert post(paid, paid.key_request(BOB)).status_code == 200
        for _ in range(5):
            assert post(paid, paid.key_request(EVE, payer=BOB.canonical), "127.0.0.2").status_code in (403, 429)
        assert post(paid, paid.key_request(BOB)).status_code == 200


class SlowChain(MemoryChain):
    """Answers about deposits only when it is told to, and counts who waits."""

    asked = 0
    most = 0

    def __init__(self) -> None:
        super().__init__({"echo": 1}, {ANN.canonical: Backing(10**18, 0)})
        self.answers = threading.Event()

    async def deposit_of(self, payer: Address) -> Backing:
        self.asked += 1
        self.most = max(self.most, self.asked)
        try:
            while not self.answers.is_set() and payer != ANN.canonical:  # noqa: ASYNC110 - set from another thread
                await asyncio.sleep(0.01)
        finally:
            self.asked -= 1
        return await super().deposit_of(payer)


def test_while_the_chain_is_slow_strangers_wait_in_a_bounded_queue_and_known_payers_do_not() -> None:
    chain = SlowChain()
    with serving_paid(config=BillingConfig(increment_tokens=K), chain=chain) as paid:
        paid.key(ANN)
        answers: list[int] = []

        def ask(number: int) -> None:
            body = paid.key_request(Account(number.to_bytes(32, "big")))
            answers.append(post(paid, body, f"127.0.1.{number % 25 + 1}").status_code)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(100, 200)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            paid.key(ANN)
        deadline = time.monotonic() + 15
        while answers.count(503) < 100 - 72:  # what does not fit into the queue is told to come again
            assert time.monotonic() < deadline
            time.sleep(0.01)
        chain.answers.set()
        for thread in threads:
            thread.join(20)
        assert set(answers) <= {402, 503}
        assert 2 <= chain.most <= 8 + 1


async def test_the_queue_gives_every_source_its_share_and_forgets_them_all() -> None:
    queue = CheckQueue(at_once=2, waiting=6, per_source=2, seconds=0.2)
    draw = random.Random(1)
    running: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()

    async def check(source: str) -> None:
        try:
            async with queue.turn(source):
                running[source] += 1
                assert running.total() <= 2 and running[source] <= 2
                await asyncio.sleep(draw.random() * 0.05)
                running[source] -= 1
                outcomes["done"] += 1
        except ApiFailure as failure:
            assert failure.error.status == 503 and failure.error.headers["Retry-After"]
            outcomes["refused"] += 1

    for _ in range(20):
        await asyncio.gather(*(check(f"s{draw.randrange(5)}") for _ in range(12)))
    assert outcomes["done"] >= 20 * 4 and outcomes["refused"] > 0
    async with queue.turn("s0"), queue.turn("s0"):
        with pytest.raises(ApiFailure):
            async with queue.turn("s0"):
                pass


def test_buckets_of_ever_new_strangers_take_bounded_memory() -> None:
    buckets: Buckets[int] = Buckets(60, most=100)
    kept = buckets.of(0)
    kept.draw(60, 0.0)
    for number in range(1, 10_000):
        buckets.of(number)
        assert buckets.of(0) is kept, "who is heard of goes on being known"
        assert len(buckets) <= 100
