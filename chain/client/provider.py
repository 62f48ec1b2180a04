"""web3.py's connection to a node, made safe for strangers' nodes: bounded bodies, retries with a deadline, our errors.

Everything that goes through here may be asked twice, but for what `ONCE` names: reads change nothing, and a signed
transaction is the same transaction however often it is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from chain import recursion_limit
from chain.client import answers
from chain.client.retry import RETRY_STATUS, RetryPolicy
from chain.errors import BadAnswer, ChainConfigError, NodeError, NodeTimeout, NodeUnreachable, RateLimited, WrongChain

with recursion_limit.kept():
    from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
    from web3 import AsyncHTTPProvider
    from web3.types import RPCEndpoint, RPCRequest, RPCResponse

MAX_ANSWER = 64 << 20
BATCH = 100
CONNECTIONS = 16
ONCE = frozenset({"eth_sendTransaction", "personal_sendTransaction", "parity_postTransaction"})
"""The node signs these: asked twice they would be two transactions."""
HEADERS = {"content-type": "application/json"}
CHAIN_SECONDS = 1.0
"""How long it stands that a node is on our chain: what is asked later asks for that too. What answers at an address may
change while a node runs: a development chain that begins anew, a balancer with another chain behind it."""


class NodeProvider(AsyncHTTPProvider):
    """One node, for `AsyncWeb3` and for `Rpc`. Open after `open`, until `disconnect`.

    Raises of every request: `NodeUnreachable`, `NodeTimeout`, `RateLimited`, `BadAnswer`, `WrongChain`. What a node
    refuses is an answer with `error`, as web3.py wants it.
    """

    # A contract that reverts with OffchainLookup would have us fetch any address that it names (EIP-3668).
    global_ccip_read_enabled = False

    def __init__(self, url: str, policy: RetryPolicy | None = None) -> None:
        """Raises `ChainConfigError` for what is not an HTTP address."""
        parsed = _address(url)
        super().__init__(url, exception_retry_configuration=None)
        self.shown = f"{parsed.scheme}://{parsed.hostname}" + (f":{parsed.port}" if parsed.port else "")
        """The address without path and credentials, which often hold a secret."""
        self.policy = policy or RetryPolicy()
        self.pinned: int | None = None
        """The only chain id that this node may say it has; None before that is known."""
        self.anchor: tuple[int, str] | None = None
        """Number and hash of a block that our chain has; None where that is not looked at."""
        self._on_our_chain = 0.0
        self._session: ClientSession | None = None
        self._random = random.Random()
        self._slots = asyncio.Semaphore(CONNECTIONS)

    def __str__(self) -> str:
        return f"NodeProvider({self.shown})"

    async def open(self) -> None:
        """Make the pool of connections; nothing is sent yet."""
        self._session = ClientSession(
            connector=TCPConnector(limit=CONNECTIONS),
            timeout=ClientTimeout(total=self.policy.attempt_timeout),
            raise_for_status=False,
            trust_env=True,
        )

    async def disconnect(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def make_request(
        self, method: RPCEndpoint | str, params: Any, *, deadline: float | None = None
    ) -> RPCResponse:
        """The answer to one request, with `result` or `error`; `deadline` seconds for all tries."""
        return (await self._retry([(method, params)], deadline))[0]

    async def make_batch_request(
        self, batch_requests: Sequence[tuple[RPCEndpoint | str, Any]], *, deadline: float | None = None
    ) -> list[RPCResponse]:
        """The answers to many requests, in order; more than `BATCH` are sent one chunk after the other."""
        chunks = [batch_requests[start : start + BATCH] for start in range(0, len(batch_requests), BATCH)]
        return [answer for chunk in chunks for answer in await self._retry(chunk, deadline)]

    async def _retry(self, calls: Sequence[tuple[RPCEndpoint | str, Any]], deadline: float | None) -> list[RPCResponse]:
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.policy.deadline if deadline is None else deadline)
        repeatable = ONCE.isdisjoint(method for method, _ in calls)
        failure: NodeError | None = None
        for attempt in itertools.count():
            try:
                async with asyncio.timeout_at(end), self._slots, asyncio.timeout(self.policy.attempt_timeout):
                    return await self._once(calls)
            except TimeoutError:
                # Where our deadline cut the last try short, what failed before says more.
                if failure is None or loop.time() < end:
                    failure = NodeTimeout(f"{self.shown} did not answer {calls[0][0]} in time")
            except (NodeUnreachable, RateLimited) as error:
                failure = error
            after = failure.retry_after if isinstance(failure, RateLimited) else None
            wait = self.policy.delay(attempt, self._random.random(), after)
            if loop.time() + wait >= end or not (repeatable or isinstance(failure, RateLimited)):
                raise failure
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _once(self, calls: Sequence[tuple[RPCEndpoint | str, Any]]) -> list[RPCResponse]:
        """The answers, of our chain: that is asked with them, and before anything is sent there."""
        now = asyncio.get_running_loop().time()
        if self.anchor is None or now - self._on_our_chain < CHAIN_SECONDS:
            return await self._ask(calls)
        number, expected = self.anchor
        look: list[tuple[RPCEndpoint | str, Any]] = [
            ("eth_chainId", ()),
            ("eth_getBlockByNumber", (hex(number), False)),
        ]
        alone = any(method.startswith("eth_send") for method, _ in calls)
        found = await self._ask(look if alone else [*look, *calls])
        anchor = found[1].get("result")
        if "result" not in found[0] or not isinstance(anchor, dict) or anchor.get("hash") != expected:
            raise WrongChain(f"{self.shown} is not on our chain any more: it lacks the block that the deployment names")
        self._on_our_chain = now
        return await self._ask(calls) if alone else found[len(look) :]

    async def _ask(self, calls: Sequence[tuple[RPCEndpoint | str, Any]]) -> list[RPCResponse]:
        requests: list[RPCRequest] = [
            self.form_request(RPCEndpoint(method), params if isinstance(params, dict) else list(params or ()))
            for method, params in calls
        ]
        many = len(requests) > 1
        status, after, raw = await self._post(
            self.encode_batch_request_dicts(requests) if many else self.encode_rpc_dict(requests[0])
        )
        if status == 429:
            raise RateLimited(f"{self.shown} asks us to slow down", retry_after=answers.seconds(after))
        body = answers.parse(raw)
        if body is None:
            if status in RETRY_STATUS:
                raise NodeUnreachable(f"{self.shown} answered with HTTP status {status}")
            raise BadAnswer(f"{self.shown} did not answer with JSON (HTTP status {status}): is it a chain's endpoint?")
        found = answers.match(requests, body, self.shown)
        for request, answer in zip(requests, found, strict=True):
            if self.pinned is not None and request["method"] == "eth_chainId" and "result" in answer:
                said = answers.quantity(answer["result"])
                if said != self.pinned:
                    raise WrongChain(f"{self.shown} is chain {said}, not chain {self.pinned}")
        return cast(list[RPCResponse], found)

    async def _post(self, body: bytes) -> tuple[int, str | None, bytes]:
        """HTTP status, Retry-After and body, which is never larger than `MAX_ANSWER`, also after decompression."""
        if self._session is None:
            raise NodeUnreachable("this client is closed")
        try:
            async with self._session.post(
                str(self.endpoint_uri), data=body, headers=HEADERS, allow_redirects=False
            ) as response:
                raw = bytearray()
                # aiohttp decompresses a bounded piece at a time, so a small body cannot become a large piece.
                async for piece in response.content.iter_any():
                    if len(raw) + len(piece) > MAX_ANSWER:
                        raise BadAnswer(f"{self.shown} answered with more than {MAX_ANSWER >> 20} MiB")
                    raw += piece
                return response.status, response.headers.get("retry-after"), bytes(raw)
        except ClientError as error:
            # Not the error's own words: some of them repeat the whole address.
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number is not None and number > 0 else type(error).__name__
            raise NodeUnreachable(f"cannot reach the chain at {self.shown}: {why}") from error


def _address(url: str) -> SplitResult:
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError as error:
        raise ChainConfigError(f"{url!r} is not an address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.hostname or port == 0:
        raise ChainConfigError(f"the chain's address is written like http://127.0.0.1:8545, got {url!r}")
    return parsed
