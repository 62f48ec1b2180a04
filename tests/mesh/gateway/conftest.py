"""The gateway under real uvicorn on a loopback port, over the in-memory backend."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from mesh.errors import InternalError, PeerFailed, PeerTimeout, Refused
from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from mesh.gateway.connections import ConnectionLimits
from mesh.gateway.serve import server_config
from shards.model.span import Span
from tests.mesh.gateway.echo_backend import Behaviour, EchoBackend
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer


def models() -> dict[str, Behaviour]:
    """The twin's models, named by what they show."""
    tokenizer = ByteTokenizer()
    return {
        "echo": Behaviour(tokenizer),
        "org/with-slash": Behaviour(tokenizer),
        "no-template": Behaviour(ByteTokenizer(has_chat_template=False)),
        "remembers": Behaviour(tokenizer, cached=6),
        "no-bos": Behaviour(ByteTokenizer(add_bos=False)),
        "pairs": Behaviour(tokenizer, tokens_per_delta=2),
        "incomplete": Behaviour(tokenizer, gaps=(Span(1, 2),)),
        "slow": Behaviour(tokenizer, context_length=100_000, seconds_per_token=0.02),
        "vast": Behaviour(tokenizer, context_length=20_000_000, seconds_per_token=0.02),
        "stuck": Behaviour(tokenizer, stuck=True),
        "ahead": Behaviour(tokenizer, tokens_ahead=5, seconds_per_token=0.02),
        "refuses": Behaviour(tokenizer, fails_at=0, failure=lambda: Refused("no room", retry_after=2.5)),
        "peer-lost": Behaviour(tokenizer, fails_at=0, failure=lambda: PeerFailed("gone", peer="peer-b")),
        "peer-silent": Behaviour(tokenizer, fails_at=0, failure=lambda: PeerTimeout("silent", peer="peer-b")),
        "lost-midway": Behaviour(tokenizer, fails_at=3, failure=lambda: PeerFailed("gone", peer="peer-b")),
        "our-bug": Behaviour(tokenizer, fails_at=0, failure=lambda: InternalError("secret detail")),
        "crash": Behaviour(tokenizer, fails_at=0, failure=lambda: ZeroDivisionError("secret detail")),
        "crash-midway": Behaviour(tokenizer, fails_at=3, failure=lambda: ZeroDivisionError("secret detail")),
        "group-midway": Behaviour(
            tokenizer, fails_at=3, failure=lambda: ExceptionGroup("hops", [PeerTimeout("silent")])
        ),
    }


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, app: FastAPI, limits: ConnectionLimits | None) -> None:
        super().__init__(server_config(app, limits))
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@dataclass(frozen=True)
class Live:
    """A running gateway."""

    url: str
    backend: EchoBackend
    app: FastAPI

    @contextmanager
    def client(self, api_key: str = "unused") -> Iterator[OpenAI]:
        with OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=30) as client:
            yield client

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, headers={"Content-Type": "application/json"})


@contextmanager
def serving(config: GatewayConfig) -> Iterator[Live]:
    """Serve a gateway in a thread of its own."""
    backend = EchoBackend(models())
    app = create_app(backend, config)
    with serve_app(app) as url:
        yield Live(url, backend, app)


@contextmanager
def serve_app(
    app: FastAPI,
    around: AbstractAsyncContextManager[object] | None = None,
    connections: ConnectionLimits | None = None,
) -> Iterator[str]:
    """Serve an app in a thread of its own, inside of `around`; yields its address."""
    server = _Server(app, connections)

    async def run(listener: socket.socket) -> None:
        async with around or nullcontext():
            await server.serve([listener])

    # asyncio switches Nagle's algorithm off only for sockets that say that they are TCP.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(run(listener)))
        thread.start()
        try:
            assert server.ready.wait(20)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """One gateway with default limits for a module's tests."""
    with serving(GatewayConfig()) as running:
        yield running


@pytest.fixture
def serve() -> Iterator[Callable[[GatewayConfig], Live]]:
    """Start gateways with limits of the test's own."""
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(serving(config))


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with live.client() as each:
        yield each


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with live.http() as each:
        yield each
