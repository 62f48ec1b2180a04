"""Connections that say nothing, say it slowly, or are too many: none keeps others out, none is kept for ever."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from mesh.gateway.connections import UNKNOWN_SOURCE, ConnectionLimits, OpenConnections, source_of
from tests.mesh.gateway.conftest import serve_app

BIG = 16 << 20


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/small")
    async def small() -> str:
        return "here"

    @app.post("/refuses")
    async def refuses() -> Response:
        return Response(status_code=401)

    @app.get("/big")
    async def big() -> Response:
        return Response(bytes(BIG))

    return app


@contextmanager
def served(**limits: float) -> Iterator[tuple[str, int]]:
    with serve_app(make_app(), connections=ConnectionLimits(**limits)) as url:  # type: ignore[arg-type]
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


def seconds_until_closed(connection: socket.socket, dribble: bytes = b"", timeout: float = 10.0) -> float:
    """How long the other side keeps the connection, while we go on sending `dribble`."""
    began = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() - began < timeout:
        try:
            if dribble:
                connection.sendall(dribble)
            if not connection.recv(4096):
                return time.monotonic() - began
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - began
    raise AssertionError("the connection is still open")


@pytest.mark.parametrize(
    ("said", "dribble"),
    [
        (b"", b""),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nX-Slow: ", b""),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x"),
        (b"GET /small HTTP/1.1\r\nHost: x\r\n\r\nGET /small HTTP/1.1\r\nX-Slow: ", b"x"),
        (b"POST /refuses HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"POST /refuses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    ],
    ids=["silent", "half a head", "a slow head", "a slow second head", "a slow body", "a slow chunked body", "idle"],
)
def test_a_connection_on_which_nothing_comes_to_an_end_is_closed(said: bytes, dribble: bytes) -> None:
    with (
        served(head_seconds=0.6, keep_alive_seconds=1) as address,
        socket.create_connection(address) as connection,
    ):
        connection.sendall(said)
        assert 0.3 < seconds_until_closed(connection, dribble) < 5.0


def test_a_client_that_takes_its_answer_slowly_is_not_cut_but_one_that_takes_nothing_is() -> None:
    with served(head_seconds=0.3, keep_alive_seconds=1, drain_seconds=1.0) as address:
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.8)  # longer than a head may take
            connection.settimeout(10)
            got = 0
            while got < BIG:
                part = connection.recv(1 << 20)
                assert part
                got += len(part)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(address)
            connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            time.sleep(3.0)
            connection.settimeout(10)
            got = 0
            with suppress(ConnectionError):
                while part := connection.recv(1 << 20):
                    got += len(part)
            assert got < BIG


def test_one_address_cannot_have_more_connections_than_its_share_and_gets_them_back() -> None:
    with served(total=20, per_address=4) as address, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
        time.sleep(0.2)
        with socket.create_connection(address) as another:
            another.settimeout(5)
            another.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
            said = another.recv(4096)
        assert said.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in said
        for each in held:
            each.close()
        time.sleep(0.2)
        assert httpx.get(f"http://{address[0]}:{address[1]}/small").text == '"here"'


def test_half_sent_heads_from_one_address_do_not_keep_another_address_out() -> None:
    with served(total=12, per_address=6, head_seconds=5) as address, ExitStack() as stack:
        for _ in range(40):
            slow = stack.enter_context(socket.socket())
            slow.bind(("127.0.0.2", 0))
            slow.connect(address)
            try:
                slow.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            except OSError:
                continue
        assert httpx.get(f"http://{address[0]}:{address[1]}/small").text == '"here"'


@pytest.mark.parametrize("seed", range(5))
def test_the_counts_are_never_passed_and_end_at_nothing(seed: int) -> None:
    draw = random.Random(seed)
    connections = OpenConnections(ConnectionLimits(total=10, per_address=4))
    held: list[str] = []
    for _ in range(2000):
        if held and draw.random() < 0.5:
            connections.leave(held.pop(draw.randrange(len(held))))
        else:
            source = f"10.0.0.{draw.randrange(6)}"
            full = len(held) >= 10 or held.count(source) >= 4
            assert connections.enter(source) is not full
            held += [] if full else [source]
        assert len(connections) == len(held) <= 10
        assert max(Counter(held).values(), default=0) <= 4
    for source in held:
        connections.leave(source)
    assert len(connections) == 0


def test_a_source_is_an_ipv4_address_or_an_ipv6_network_of_one_subscriber() -> None:
    assert source_of("10.1.2.3") == source_of("::ffff:10.1.2.3") == "10.1.2.3"
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1") != source_of("2001:db8:0:1::1")
    assert source_of("fe80::1%eth0") == source_of("fe80::2%eth1")
    assert source_of(None) == source_of("") == source_of("x" * 1000) == UNKNOWN_SOURCE
