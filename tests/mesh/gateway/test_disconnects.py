"""A client that leaves frees its sessions; a gateway that is full says so."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.conftest import Live

SLOW = {"model": "slow", "prompt": "the ", "max_tokens": 10_000, "ignore_eos": True}
SOON = 2.0
"""Seconds in which the backend must have seen that a client left."""


def head(size: int, path: str = "/v1/completions") -> bytes:
    """The first lines of a request whose body has `size` bytes."""
    lines = f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {size}"
    return "\r\n".join((*lines, "", "")).encode()


def post(live: Live, body: dict, path: str = "/v1/completions") -> socket.socket:
    """Send a request by hand, so that the test decides what becomes of the connection."""
    address = httpx.URL(live.url)
    connection = socket.create_connection((address.host, address.port), timeout=20)
    data = json.dumps(body).encode()
    connection.sendall(head(len(data), path) + data)
    return connection


def wait_idle(live: Live) -> None:
    """Wait until the gateway has counted its last session as closed."""
    deadline = time.monotonic() + SOON
    while live.backend.active and time.monotonic() < deadline:
        time.sleep(0.005)
    assert live.backend.active == 0


@pytest.mark.parametrize("model", ["slow", "stuck"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_client_that_does_not_wait_for_its_answer_cancels_it(live: Live, model: str, path: str) -> None:
    body = {**SLOW, "model": model, "max_tokens": 200}
    if "chat" in path:
        del body["prompt"]
        body["messages"] = [{"role": "user", "content": "a"}]
    with post(live, body, path):
        assert live.backend.opened.acquire(timeout=10)
    assert live.backend.cancelled.acquire(timeout=SOON)
    wait_idle(live)


@pytest.mark.parametrize("model", ["slow", "stuck"])
def test_a_client_that_leaves_a_stream_cancels_it(live: Live, model: str) -> None:
    with post(live, {**SLOW, "model": model, "max_tokens": 200, "stream": True}) as connection:
        assert live.backend.opened.acquire(timeout=10)
        if model == "slow":
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert live.backend.cancelled.acquire(timeout=SOON)
    wait_idle(live)


def test_a_cancelled_request_is_told_as_cancelled(live: Live, http: httpx.Client) -> None:
    with post(live, {**SLOW, "stream": True}) as connection:
        assert live.backend.opened.acquire(timeout=10)
        data = b""
        while b"\n\n" not in data.partition(b"data: ")[2]:
            data += connection.recv(65536)
    request_id = json.loads(data.partition(b"data: ")[2].partition(b"\n\n")[0])["id"]
    assert live.backend.cancelled.acquire(timeout=SOON)
    wait_idle(live)
    report = http.get(f"/mesh/requests/{request_id}").json()
    assert (report["status"], report["error"]) == ("cancelled", None)
    assert 'route="/v1/completions",status="499"' in http.get("/metrics").text


def test_all_choices_of_a_request_are_cancelled_together(live: Live) -> None:
    with post(live, {**SLOW, "n": 5}):
        for _ in range(5):
            assert live.backend.opened.acquire(timeout=10)
    for _ in range(5):
        assert live.backend.cancelled.acquire(timeout=SOON)
    wait_idle(live)


def test_closing_the_official_clients_stream_cancels_the_session(live: Live) -> None:
    with live.client() as client:
        stream = client.completions.create(
            model="slow", prompt="a", max_tokens=9000, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        assert live.backend.opened.acquire(timeout=10)
        stream.close()
        assert live.backend.cancelled.acquire(timeout=SOON)
    wait_idle(live)


async def test_a_clients_own_timeout_cancels_the_session(live: Live) -> None:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0, timeout=0.5) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.completions.create(model="stuck", prompt="a")
    assert live.backend.opened.acquire(timeout=10)
    assert await asyncio.to_thread(live.backend.cancelled.acquire, timeout=SOON)
    wait_idle(live)


def test_a_failed_choice_cancels_its_siblings(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(request_timeout=0.5))
    with live.client() as client, pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="stuck", prompt="a", n=3)
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    for _ in range(3):
        assert live.backend.cancelled.acquire(timeout=SOON)
    wait_idle(live)


def test_a_deadline_in_mid_stream_ends_the_stream_with_an_error(
    serve: Callable[[GatewayConfig], Live],
) -> None:
    live = serve(GatewayConfig(request_timeout=0.5))
    with live.client() as client, pytest.raises(openai.APIError) as caught:
        for _ in client.completions.create(
            model="slow", prompt="a", max_tokens=9000, stream=True, extra_body={"ignore_eos": True}
        ):
            pass
    assert caught.value.code == "timeout"
    assert live.backend.cancelled.acquire(timeout=SOON)


def test_a_client_that_does_not_read_its_stream_loses_it(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(send_timeout=0.3, max_choices=1))
    # Eight megabytes of echo fill every buffer on the way to a client that never reads.
    options = {"model": "vast", "prompt": "x" * 8_000_000, "echo": True, "stream": True, "max_tokens": 9000}
    address = httpx.URL(live.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.host, address.port))
        data = json.dumps({**options, "ignore_eos": True}).encode()
        connection.sendall(head(len(data)) + data)
        assert live.backend.opened.acquire(timeout=20)
        assert live.backend.cancelled.acquire(timeout=20)
    wait_idle(live)


def test_a_slow_body_is_a_408(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(body_timeout=0.2))
    address = httpx.URL(live.url)
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        connection.sendall(head(100) + b"{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_within_its_body_gives_its_place_back(
    serve: Callable[[GatewayConfig], Live],
) -> None:
    live = serve(GatewayConfig(max_concurrent=1, body_timeout=60))
    address = httpx.URL(live.url)
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        connection.sendall(head(100) + b"{")
    deadline = time.monotonic() + 5
    with live.http() as http:
        status = 0
        while status != 200 and time.monotonic() < deadline:
            status = http.post("/v1/completions", json={"model": "echo", "prompt": "a"}).status_code
    assert status == 200


def test_a_full_gateway_answers_429_at_once_and_recovers(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(max_concurrent=2))
    body = {**SLOW, "model": "stuck", "max_tokens": 10}
    with live.client() as client:
        with post(live, body), post(live, body):
            for _ in range(2):
                assert live.backend.opened.acquire(timeout=10)
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model="echo", prompt="a")
            assert caught.value.response.headers["retry-after"] == "1"
            assert caught.value.code == "at_capacity"
            assert client.models.list().data
        for _ in range(2):
            assert live.backend.cancelled.acquire(timeout=SOON)
        deadline = time.monotonic() + SOON
        while live.app.state.gateway.running and time.monotonic() < deadline:
            time.sleep(0.005)
        assert client.completions.create(model="echo", prompt="a").choices


def test_the_places_that_clients_take_are_never_exceeded(serve: Callable[[GatewayConfig], Live]) -> None:
    live = serve(GatewayConfig(max_concurrent=3))
    start = threading.Barrier(12)

    def ask(_: int) -> int:
        with live.http() as http:
            start.wait()
            return http.post("/v1/completions", json={**SLOW, "max_tokens": 20, "prompt": "the "}).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(ask, range(12)))
    assert set(statuses) == {200, 429}
    assert live.backend.peak <= 3
