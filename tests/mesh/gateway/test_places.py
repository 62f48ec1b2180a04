"""Accounts that pay nothing, or send nothing, hold no places; one that pays holds its share and no more."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from mesh.gateway.billing import BillingConfig
from mesh.gateway.bodies import BodyMemory
from mesh.gateway.config import GatewayConfig
from mesh.payment.accounts.ports import Backing
from tests.mesh.gateway.conftest import Live, serving
from tests.mesh.gateway.paid import ANN, BOB, K, Paid, serving_paid
from tests.mesh.gateway.test_billing import ask, error_of

PLACES = 4
PATIENT = BillingConfig(increment_tokens=K, pause_seconds=3.0)


@contextmanager
def two_accounts(config: BillingConfig = PATIENT, **limits: float) -> Iterator[tuple[Paid, str, str]]:
    """A gateway with few places; the key of an account with credit, and of one with a deposit of 1 wei."""
    gateway = GatewayConfig(max_concurrent=PLACES, **limits)  # type: ignore[arg-type]
    with serving_paid(config=config, gateway=gateway) as paid:
        paid.chain.deposits[BOB.canonical] = Backing(1, 0)
        good, poor = paid.key(ANN), paid.key(BOB)
        paid.pay(good, 10**17)
        yield paid, good, poor


@contextmanager
def unsent_bodies(paid: Paid, key: str, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Requests whose bodies of 100 bytes do not come."""
    host, port = paid.url.removeprefix("http://").split(":")
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}"]
    head = "\r\n".join([*lines, "Content-Type: application/json", "Content-Length: 100", "", ""])
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(count)]
        for each in held:
            each.sendall(head.encode() + sent)
        time.sleep(0.2)
        yield held


@pytest.mark.parametrize("sent", [b"", b'{"model": "ec'])
def test_bodies_that_do_not_come_hold_no_places_and_end(sent: bytes) -> None:
    with two_accounts(body_timeout=1.0) as (paid, good, poor):
        for key in (poor, good):
            with unsent_bodies(paid, key, 5 * PLACES, sent) as held:
                began = time.monotonic()
                assert ask(paid, good).status_code == 200
                assert time.monotonic() - began < 0.8
                for each in held:
                    each.settimeout(5)
                    assert each.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert paid.account(poor)["charged"] == "0"


def test_an_account_without_funds_is_refused_before_it_takes_a_place() -> None:
    with two_accounts() as (paid, _, poor):
        paid.pay(poor, 1, BOB)
        for _ in range(PLACES + 1):
            assert error_of(ask(paid, poor, model="stuck")) == (402, "insufficient_funds")
        assert not paid.backend.requests


def test_requests_that_wait_for_a_voucher_that_never_comes_hold_no_places_and_are_bounded() -> None:
    waiting = BillingConfig(increment_tokens=K, pause_seconds=3.0, max_waiting=6)
    with two_accounts(waiting) as (paid, good, poor):
        with paid.http(poor) as http:
            assert http.get("/mesh/account", params={"wait": "1", "spent": "0"}).status_code == 200  # a payer's agent
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(paid, poor).status_code)) for _ in range(10)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 2
        while paid.account(poor)["waiting_requests"] < 6:
            assert time.monotonic() < deadline
        assert ask(paid, good).status_code == 200
        for thread in threads:
            thread.join(20)
        assert sorted(answers) == [402] * 6 + [429] * 4


def test_one_account_never_has_all_places_and_another_one_finds_room() -> None:
    with two_accounts() as (paid, good, other):
        paid.chain.deposit(BOB, 10**18)
        paid.pay(other, 10**17, BOB)

        def hold(key: str) -> None:
            with suppress(httpx.HTTPError):  # until the gateway stops
                ask(paid, key, model="stuck")

        for key, share in ((good, PLACES // 2), (other, 1)):
            for _ in range(share):
                threading.Thread(target=hold, args=(key,), daemon=True).start()
                assert paid.backend.opened.acquire(timeout=10)
            refused = ask(paid, key, model="stuck")
            assert error_of(refused) == (429, "at_capacity") and refused.headers["retry-after"]
        assert len(paid.backend.requests) == PLACES - 1


def test_large_bodies_are_bounded_together_and_short_ones_always_arrive() -> None:
    with serving(GatewayConfig()) as live:
        memory: BodyMemory = live.app.state.gateway.body_memory
        memory.total, memory.share = 300_000, 200_000
        with ExitStack() as stack:
            held = [stack.enter_context(large_body(live, f"127.0.0.{number}")) for number in (2, 3)]
            deadline = time.monotonic() + 5
            while memory.taken.total() < 2 * 100_000:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            body = {"model": "echo", "prompt": "x" * 200_000}
            with live.http() as http:
                refused = http.post("/v1/completions", json=body)
                assert error_of(refused) == (503, "busy") and refused.headers["retry-after"]
                assert http.post("/v1/completions", json={"model": "echo", "prompt": "x"}).status_code == 200
            for each in held:
                each.close()
            deadline = time.monotonic() + 5
            while memory.taken:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with live.http() as http:
                assert error_of(http.post("/v1/completions", json=body)) == (400, "context_length_exceeded")


@contextmanager
def large_body(live: Live, source: str) -> Iterator[socket.socket]:
    """A request of which 170 kB come, and the rest does not."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), source_address=(source, 0)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 200000\r\n\r\n" + bytes(170_000)
        )
        yield connection
