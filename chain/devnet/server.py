"""The embedded chain as a JSON-RPC 2.0 endpoint over HTTP on loopback; batches, bounded bodies, one EVM thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from chain import safe_json
from chain.devnet.evm import EVM_STACK
from chain.devnet.formats import BadParams, data, read_bytes, read_quantity
from chain.devnet.methods import Methods, RpcFault
from chain.devnet.node import Node, PoolRefused, TransactionRefused
from chain.errors import DevnetError
from chain.http_guard import Allowed, HttpGuard, Refusal

MAX_BODY = 4 << 20
MAX_BATCH = 1_000
MAX_WAITING = 4_096
START_SECONDS = 10.0
log = logging.getLogger(__name__)


class Server:
    """Serves `node` at `url` while the block of `async with serve(…)` runs."""

    def __init__(self, node: Node, host: str, port: int) -> None:
        self.node = node
        self.host = host
        self.port = port
        self._methods = Methods(node)
        self._evm = _deep_thread()
        self._sends: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._waiting = 0
        self._interval: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def on_evm(self, function: Any, *arguments: Any) -> Any:
        """Run on the one thread that may touch the node."""
        return await asyncio.get_running_loop().run_in_executor(self._evm, function, *arguments)

    # --- HTTP ---

    async def handle(self, request: Request) -> Response:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    return _json(_fault(None, -32600, f"a request has at most {MAX_BODY} bytes"), 413)
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            message = safe_json.parse(bytes(body))
        except ValueError:
            return _json(_fault(None, -32700, "the request is not JSON"), 400)
        if isinstance(message, list):
            if not 1 <= len(message) <= MAX_BATCH:
                return _json(_fault(None, -32600, f"a batch has 1 to {MAX_BATCH} requests"))
            answers = await asyncio.gather(*(self.answer(each) for each in message))
            return _json(answers)
        return _json(await self.answer(message))

    async def answer(self, message: object) -> dict[str, Any]:
        """The answer to one request."""
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return _fault(None, -32600, "a request is an object with a method")
        identifier = message.get("id")
        if self._waiting >= MAX_WAITING:
            return _fault(identifier, -32005, "too many requests are waiting")
        self._waiting += 1
        try:
            result = await self._dispatch(message["method"], message.get("params") or [])
        except RpcFault as fault:
            return _fault(identifier, fault.code, str(fault), fault.extra)
        finally:
            self._waiting -= 1
        return {"jsonrpc": "2.0", "id": identifier, "result": result}

    async def _dispatch(self, method: str, params: Any) -> Any:
        if method == "eth_sendRawTransaction" and isinstance(params, list) and len(params) == 1:
            try:
                return data(await self._send(read_bytes(params[0])))
            except BadParams as error:
                raise RpcFault(-32602, str(error)) from error
            except (TransactionRefused, PoolRefused) as error:
                raise RpcFault(-32000, str(error)) from error
        if method in ("evm_setIntervalMining", "anvil_setIntervalMining") and isinstance(params, list) and params:
            try:
                self.mine_every(read_quantity(params[0], 2**32) / (1000 if method.startswith("evm") else 1))
            except BadParams as error:
                raise RpcFault(-32602, str(error)) from error
            return None
        return await self.on_evm(self._methods.call, method, params)

    # --- sending: what arrives while a block is being made goes into the next one together ---

    async def _send(self, raw: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._sends.append((raw, future))
        if self._flusher is None:  # a task of the server's: a client that hangs up must not stop the others
            self._flusher = asyncio.create_task(self._flush_all())
        return await future

    async def _flush_all(self) -> None:
        try:
            while self._sends:
                batch, self._sends = self._sends, []
                await self._flush(batch)
        finally:
            self._flusher = None

    async def _flush(self, batch: list[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        def work() -> list[bytes | Exception]:
            outcomes: list[bytes | Exception] = []
            for raw, _ in batch:
                try:
                    outcomes.append(self.node.accept(raw))
                except (TransactionRefused, PoolRefused) as error:
                    outcomes.append(error)
            if self.node.automine:
                self.node.mine_ready()
            return outcomes

        try:
            outcomes = await self.on_evm(work)
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(RpcFault(-32603, f"internal error: {type(error).__name__}"))
            raise
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    # --- blocks by the clock ---

    def mine_every(self, seconds: float) -> None:
        """A block every so many seconds, also empty; 0 stops it."""
        if self._interval is not None:
            self._interval.cancel()
            self._interval = None
        if seconds > 0:
            self._interval = asyncio.get_running_loop().create_task(self._mine_forever(seconds))

    async def _mine_forever(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + seconds, loop.time())
            await asyncio.sleep(due - loop.time())
            await self.on_evm(self.node.mine)

    async def close(self) -> None:
        self.mine_every(0)
        if self._flusher is not None:
            await asyncio.wait({self._flusher})
        await self.on_evm(self.node.close)
        self._evm.shutdown()


@contextlib.asynccontextmanager
async def serve(
    node: Node,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    block_seconds: float = 0,
    allowed: Allowed | None = None,
) -> AsyncIterator[Server]:
    """Serve `node` until the block is left; port 0 takes a free one. Raises `DevnetError` when the port is taken.

    `allowed`: names and web pages that may use it besides this machine's own (see `chain.http_guard`).
    """
    # With the protocol named, asyncio switches Nagle's algorithm off.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise DevnetError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    server = Server(node, host, listener.getsockname()[1])
    own = allowed or Allowed()
    guard = Middleware(HttpGuard, allowed=Allowed(own.hosts | {host.lower()}, own.origins), answer=_refused)
    app = Starlette(routes=[Route("/", server.handle, methods=["POST"])], middleware=[guard])
    web = _Web(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1))
    task = asyncio.create_task(web.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(START_SECONDS):
            while not web.started:
                if task.done():
                    task.result()
                    raise DevnetError("the endpoint ended at once")
                await asyncio.sleep(0.005)
        if block_seconds:
            server.mine_every(block_seconds)
        yield server
    finally:
        web.should_exit = True
        await asyncio.shield(asyncio.wait({task}))
        await asyncio.shield(server.close())
        listener.close()


class _Web(uvicorn.Server):
    """uvicorn without its signal handlers: the command that runs us decides when we stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _deep_thread() -> ThreadPoolExecutor:
    """One thread, with a stack for calls as deep as the EVM allows."""
    before = threading.stack_size(EVM_STACK)
    try:
        executor = ThreadPoolExecutor(1, thread_name_prefix="devnet-evm")
        executor.submit(int).result()  # starts it, with the stack size of now
    finally:
        threading.stack_size(before)
    return executor


def _fault(identifier: object, code: int, message: str, extra: object = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if extra is not None:
        error["data"] = extra
    return {"jsonrpc": "2.0", "id": identifier, "error": error}


def _refused(why: Refusal) -> Response:
    return _json(_fault(None, -32600, why.text), why.status)


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), status_code=status, media_type="application/json")
