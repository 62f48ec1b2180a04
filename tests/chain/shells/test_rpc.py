"""JSON-RPC against a real server that misbehaves in every way that nodes do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chain.client.retry import RetryPolicy
from chain.client.rpc import Rpc, data, quantity
from chain.errors import BadAnswer, ChainConfigError, NodeTimeout, NodeUnreachable, RateLimited, RpcRefused

QUICK = RetryPolicy(deadline=2.0, attempt_timeout=0.5, first=0.01, most=0.05)
Answer = Callable[[int, Any], bytes | None]
"""From the number of the request and its body to raw HTTP bytes; None hangs up."""


def ok(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def result(request: Any, value: Any = "0x1") -> Any:
    return {"jsonrpc": "2.0", "id": request["id"], "result": value}


@asynccontextmanager
async def node(answer: Answer) -> AsyncIterator[tuple[Rpc, list[Any]]]:
    """A server that answers as `answer` says, and a client of it."""
    requests: list[Any] = []
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split()[1])
                requests.append(json.loads(await reader.readexactly(length)))
                raw = answer(len(requests), requests[-1])
                if raw is None:
                    break
                writer.write(raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Rpc(f"http://127.0.0.1:{port}", QUICK) as rpc:
        yield rpc, requests


async def test_a_dropped_connection_is_tried_again() -> None:
    async with node(lambda n, r: None if n < 4 else ok(result(r))) as (rpc, requests):
        assert await rpc.call("eth_chainId") == "0x1"
        assert len(requests) == 4


async def test_a_node_that_always_hangs_up_is_unreachable_after_the_deadline() -> None:
    async with node(lambda n, r: None) as (rpc, requests):
        with pytest.raises(NodeUnreachable):
            await rpc.call("eth_chainId", deadline=2.0)
        assert len(requests) > 2


async def test_a_node_that_asks_to_slow_down_is_asked_later() -> None:
    slow = b"HTTP/1.1 429 Too Many\r\nretry-after: 0.2\r\ncontent-length: 0\r\n\r\n"
    async with node(lambda n, r: slow if n < 3 else ok(result(r))) as (rpc, _):
        began = asyncio.get_running_loop().time()
        assert await rpc.call("eth_chainId") == "0x1"
        assert asyncio.get_running_loop().time() - began >= 0.4


async def test_a_rate_limit_inside_the_answer_is_one_too() -> None:
    def answer(n: int, r: Any) -> bytes:
        limited = {"jsonrpc": "2.0", "id": r["id"], "error": {"code": -32005, "message": "rate limit exceeded"}}
        return ok(limited if n < 3 else result(r))

    async with node(answer) as (rpc, requests):
        assert await rpc.call("eth_chainId") == "0x1"
        assert len(requests) == 3


async def test_a_rate_limit_without_end_is_an_error_of_its_own() -> None:
    async with node(lambda n, r: b"HTTP/1.1 429 x\r\ncontent-length: 0\r\n\r\n") as (rpc, _):
        with pytest.raises(RateLimited):
            await rpc.call("eth_chainId", deadline=0.2)


async def test_a_bad_gateway_is_tried_again() -> None:
    page = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>"
    async with node(lambda n, r: page if n < 3 else ok(result(r))) as (rpc, _):
        assert await rpc.call("eth_chainId") == "0x1"


async def test_a_node_that_says_nothing_is_too_slow_after_the_deadline() -> None:
    async with node(lambda n, r: b"") as (rpc, _):
        with pytest.raises((NodeTimeout, NodeUnreachable)):
            await rpc.call("eth_chainId", deadline=0.2)


async def test_a_refusal_is_raised_at_once_and_keeps_its_data() -> None:
    def answer(n: int, r: Any) -> bytes:
        return ok({"id": r["id"], "error": {"code": 3, "message": "execution reverted", "data": "0x1234"}})

    async with node(answer) as (rpc, requests):
        with pytest.raises(RpcRefused) as raised:
            await rpc.call("eth_call", {})
        assert (raised.value.code, raised.value.data, len(requests)) == (3, "0x1234", 1)


@pytest.mark.parametrize(
    "body", [b"<html>", b"5", b'"x"', b"[]", b"{}", b'{"id": 99, "result": 1}', b"[" * 100_000, b""]
)
async def test_an_answer_that_is_none_is_called_that(body: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with node(lambda n, r: raw) as (rpc, _):
        with pytest.raises(BadAnswer):
            await rpc.call("eth_chainId")


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.client.provider.MAX_ANSWER", 1000)
    async with node(lambda n, r: ok(result(r, "0x" + "00" * 2000))) as (rpc, _):
        with pytest.raises(BadAnswer, match="more than"):
            await rpc.call("eth_chainId")


async def test_a_batch_is_answered_in_order_with_refusals_in_their_places() -> None:
    def answer(n: int, r: Any) -> bytes:
        answers = [result(each, each["method"]) for each in reversed(r)]
        answers[0] = {"id": answers[0]["id"], "error": {"code": 3, "message": "reverted"}}
        return ok(answers)

    async with node(answer) as (rpc, _):
        found = await rpc.batch([("a", ()), ("b", ()), ("c", ())])
        assert found[:2] == ["a", "b"] and isinstance(found[2], RpcRefused)


async def test_a_large_batch_is_split() -> None:
    async with node(lambda n, r: ok([result(each, each["params"][0]) for each in r])) as (rpc, requests):
        assert await rpc.batch([("m", (i,)) for i in range(250)]) == list(range(250))
        assert [len(each) for each in requests] == [100, 100, 50]


async def test_many_calls_at_once_use_few_connections() -> None:
    async with node(lambda n, r: ok(result(r))) as (rpc, requests):
        assert await asyncio.gather(*(rpc.call("m") for _ in range(200))) == ["0x1"] * 200
        assert len(requests) == 200


@pytest.mark.parametrize("url", ["", "127.0.0.1:8545", "ws://127.0.0.1", "http://", "http://[::1", "file:///etc"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ChainConfigError):
        Rpc(url)


async def test_errors_never_show_the_secret_in_an_address() -> None:
    async with Rpc("http://user:secret@127.0.0.1:1/v3/apikey", RetryPolicy(deadline=2.0)) as rpc:
        with pytest.raises(NodeUnreachable) as raised:
            await rpc.call("eth_chainId")
        assert "secret" not in str(raised.value) and "apikey" not in str(raised.value)


def test_quantities_and_data_are_read_strictly() -> None:
    assert quantity("0x10") == 16 and data("0x1234") == b"\x12\x34"
    for bad in (None, 5, "10", "0x", "0xzz", [], "0x" + "1" * 65):
        with pytest.raises(BadAnswer):
            quantity(bad)
    for bad in (None, "1234", "0x123", "0xzz"):
        with pytest.raises(BadAnswer):
            data(bad)
