"""JSON-RPC 2.0 over HTTP: batches, bounded answers, bounded retries with a deadline, and errors as our types.

Everything that goes through here may be asked twice: reads change nothing, and a signed transaction is the same
transaction however often it is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

from chain import safe_json
from chain.client.retry import RETRY_STATUS, RetryPolicy, is_rate_limit
from chain.errors import BadAnswer, ChainConfigError, NodeError, NodeTimeout, NodeUnreachable, RateLimited, RpcRefused

MAX_ANSWER = 64 << 20
BATCH = 100
CONNECTIONS = 16


class Rpc:
    """One node. `async with Rpc(url) as rpc: await rpc.call("eth_chainId")`.

    Raises of every call: `NodeUnreachable`, `NodeTimeout`, `RateLimited`, `BadAnswer`, `RpcRefused`.
    """

    def __init__(
        self, url: str, policy: RetryPolicy | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ):
        """Raises `ChainConfigError` for what is not an HTTP address."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ChainConfigError(f"{url!r} is not an address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ChainConfigError(f"the chain's address is written like http://127.0.0.1:8545, got {url!r}")
        self.url = url
        self.shown = f"{parsed.scheme}://{parsed.host}" + (f":{parsed.port}" if parsed.port else "")
        """The address without path and credentials, which often hold a secret."""
        self.policy = policy or RetryPolicy()
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._ids = itertools.count(1)
        self._random = random.Random()
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def __aenter__(self) -> Rpc:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._http = httpx.AsyncClient(
            timeout=self.policy.attempt_timeout, limits=limits, transport=self._transport, follow_redirects=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def call(self, method: str, *params: Any, deadline: float | None = None) -> Any:
        """The result of one method."""
        answer = (await self._retry([(method, params)], deadline))[0]
        if isinstance(answer, RpcRefused):
            raise answer
        return answer

    async def batch(
        self, calls: Sequence[tuple[str, Sequence[Any]]], *, deadline: float | None = None
    ) -> list[Any | RpcRefused]:
        """The results of many, in order; one that was refused is its `RpcRefused`, not raised."""
        chunks = [calls[start : start + BATCH] for start in range(0, len(calls), BATCH)]
        return [answer for chunk in chunks for answer in await self._retry(chunk, deadline)]

    async def _retry(
        self, calls: Sequence[tuple[str, Sequence[Any]]], deadline: float | None
    ) -> list[Any | RpcRefused]:
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.policy.deadline if deadline is None else deadline)
        for attempt in itertools.count():
            try:
                async with asyncio.timeout_at(end), self._slots, asyncio.timeout(self.policy.attempt_timeout):
                    return await self._once(calls)
            except TimeoutError:
                failure: NodeError = NodeTimeout(f"{self.shown} did not answer {calls[0][0]} in time")
            except (NodeUnreachable, RateLimited) as error:
                failure = error
            after = failure.retry_after if isinstance(failure, RateLimited) else None
            wait = self.policy.delay(attempt, self._random.random(), after)
            if loop.time() + wait >= end:
                raise failure
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _once(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any | RpcRefused]:
        if self._http is None:
            raise NodeUnreachable("this client is closed")
        requests = [
            {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}
            for method, params in calls
        ]
        body: Any = requests if len(requests) > 1 else requests[0]
        try:
            async with self._http.stream("POST", self.url, json=body) as response:
                status, raw = response.status_code, bytearray()
                after = response.headers.get("retry-after")
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > MAX_ANSWER:
                        raise BadAnswer(f"{self.shown} answered with more than {MAX_ANSWER >> 20} MiB")
        except httpx.TimeoutException as error:
            raise NodeUnreachable(f"{self.shown} did not answer: {type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise NodeUnreachable(f"cannot reach the chain at {self.shown}: {error or type(error).__name__}") from error
        if status == 429:
            raise RateLimited(f"{self.shown} asks us to slow down", retry_after=_seconds(after))
        answers = _parse(bytes(raw))
        if answers is None:
            if status in RETRY_STATUS:
                raise NodeUnreachable(f"{self.shown} answered with HTTP status {status}")
            raise BadAnswer(f"{self.shown} did not answer with JSON (HTTP status {status}): is it a chain's endpoint?")
        return self._match(requests, answers)

    def _match(self, requests: Sequence[dict[str, Any]], answers: Any) -> list[Any | RpcRefused]:
        listed = answers if isinstance(answers, list) else [answers]
        by_id = {each.get("id"): each for each in listed if isinstance(each, dict)}
        found: list[Any | RpcRefused] = []
        for request in requests:
            answer = by_id.get(request["id"])
            if answer is None and isinstance(answers, dict) and "error" in answers:
                answer = answers  # the whole batch was refused
            if answer is None:
                raise BadAnswer(f"{self.shown} left {request['method']} unanswered")
            error = answer.get("error")
            if error is None:
                if "result" not in answer:
                    raise BadAnswer(f"{self.shown} answered {request['method']} with neither result nor error")
                found.append(answer["result"])
                continue
            refused = _refused(error)
            if is_rate_limit(refused.code, str(refused)):
                raise RateLimited(f"{self.shown}: {refused}")
            found.append(refused)
        return found


def _refused(error: Any) -> RpcRefused:
    if not isinstance(error, dict):
        return RpcRefused(str(error)[:500])
    code = error.get("code")
    return RpcRefused(
        str(error.get("message", ""))[:4000], code=code if isinstance(code, int) else 0, data=error.get("data")
    )


def _parse(raw: bytes) -> Any:
    try:
        value = safe_json.parse(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def _seconds(header: str | None) -> float | None:
    try:
        seconds = float(header) if header is not None else None
    except ValueError:
        return None  # a date: our own backoff will do
    return seconds if seconds is not None and 0 <= seconds < 3600 else None


def quantity(value: Any) -> int:
    """An integer from a node's hex quantity. Raises `BadAnswer`."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise BadAnswer(f"a quantity was expected, got {str(value)[:80]!r}")


def data(value: Any) -> bytes:
    """Bytes from a node's hex data. Raises `BadAnswer`."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise BadAnswer(f"hex data was expected, got {str(value)[:80]!r}")
