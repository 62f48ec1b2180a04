"""What `mesh pay` listens on: an API on this machine that passes requests on to a gateway, and pays for what passes.

So the agent sees itself that something was asked and what came, and need not take the gateway's word for it: where
nothing is asked it signs nothing. The key stays with it; clients need none.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from chain import safe_json
from chain.http_guard import Allowed, HttpGuard, Refusal
from mesh.client.payer import Asked, Payer
from mesh.errors import MeshError
from mesh.payment.credit.units import W_GENERATED

MAX_BODY: Final = 32 << 20
MAX_LINE: Final = 4 << 20
TIMEOUT_SECONDS: Final = 600.0
MARGIN_TOKENS: Final = 1024
"""What a chat template and descriptions of tools may add to a prompt."""
USUAL_TOKENS: Final = 2048
"""Of an answer in one piece whose request names no limit: so many are paid ahead for."""
MOST_CHOICES: Final = 128
OWN: Final = ("/mesh/account", "/mesh/keys", "/mesh/payments")
"""Of the gateway's paths those that are the agent's: whoever reaches this endpoint may spend, not revoke."""
ADDS_USAGE: Final = ("/v1/completions", "/v1/chat/completions")
_WEI: Final = re.compile(r"[0-9]{1,38}")
_PASSED_ON: Final = ("content-type", "accept", "x-request-id", "anthropic-version", "openai-beta")
_PASSED_BACK: Final = ("content-type", "retry-after", "x-request-id", "cache-control")


@asynccontextmanager
async def paying_proxy(payer: Payer, url: str, api_key: str) -> AsyncIterator[FastAPI]:
    """The app; `payer` is open while it serves, `url` the gateway's without /v1."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(HttpGuard, allowed=Allowed.of((), ()), answer=_refused, checks_callers=True)

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST"], response_model=None)
    async def passed_on(request: Request) -> Response:
        path = request.url.path
        if path.startswith(OWN):
            return _error(403, "this is between the agent and the gateway", "forbidden")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return _error(413, f"the body is larger than {MAX_BODY} bytes", "too_large")
        passing = _Passing(payer, http, path, bytes(body))
        return await passing.answer(request, api_key)

    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        yield app


class _Passing:
    """One request, and what came of it."""

    def __init__(self, payer: Payer, http: httpx.AsyncClient, path: str, body: bytes) -> None:
        self._payer = payer
        self._http = http
        self._path = path
        self._asked = _object(body)
        self._added_usage = False
        self._streams = self._asked.get("stream") is True
        if self._streams and path in ADDS_USAGE:
            options = self._asked.get("stream_options")
            if not (isinstance(options, dict) and options.get("include_usage")):
                self._added_usage = True
                more = {**(options if isinstance(options, dict) else {}), "include_usage": True}
                body = json.dumps({**self._asked, "stream_options": more}).encode()
        self._body = body
        self._price = payer.price_of(str(self._asked.get("model", "")))
        self._bytes = self._letters = 0
        self._cost: int | None = None
        self._began = False
        """The answer has begun: from now on its bytes bound what it can have cost."""

    async def answer(self, request: Request, api_key: str) -> Response:
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        headers["authorization"] = f"Bearer {api_key}"
        parts = self._parts(request, headers)
        try:
            first = await anext(parts)
        except (MeshError, httpx.HTTPError) as error:
            return _error(502, f"the gateway cannot be asked or paid: {error or type(error).__name__}", "bad_gateway")
        if not isinstance(first, httpx.Response):
            return _error(502, "the gateway said nothing", "bad_gateway")
        back = {name: first.headers[name] for name in _PASSED_BACK if name in first.headers}
        return StreamingResponse(_bytes_of(parts), first.status_code, headers=back)

    async def _parts(self, request: Request, headers: Mapping[str, str]) -> AsyncGenerator[httpx.Response | bytes]:
        """The response, then its body as it comes; paid for meanwhile where it costs anything."""
        path = f"{self._path}?{request.url.query}" if request.url.query else self._path
        if request.method != "POST":
            async with self._http.stream(request.method, path, headers=headers) as response:
                yield response
                async for part in response.aiter_bytes():
                    yield part
            return
        async with (
            self._payer.request(0 if self._streams else self._most() * self._price) as asked,
            self._http.stream("POST", path, headers=headers, content=self._body) as response,
        ):
            self._began = True
            yield response
            streams = response.headers.get("content-type", "").startswith("text/event-stream")
            async for part in self._events(response, asked) if streams else self._whole(response):
                yield part
            if self._cost is not None:
                asked.got = min(self._cost, self._most() * self._price)

    async def _whole(self, response: httpx.Response) -> AsyncIterator[bytes]:
        kept = bytearray()
        async for part in response.aiter_bytes():
            self._bytes += len(part)
            if len(kept) <= MAX_BODY:
                kept += part
            yield part
        self._note(read_piece(bytes(kept)))

    async def _events(self, response: httpx.Response, asked: Asked) -> AsyncIterator[bytes]:
        """Server-sent events, one after another, as they come."""
        waiting = bytearray()
        async for part in response.aiter_bytes():
            self._bytes += len(part)
            waiting += part
            while (end := waiting.find(b"\n\n")) >= 0:
                event = bytes(waiting[: end + 2])
                del waiting[: end + 2]
                if self._take(event):
                    asked.got = min(self._letters * W_GENERATED, self._most()) * self._price
                    yield event
            if len(waiting) > MAX_LINE:
                raise httpx.ReadError("an event of the gateway does not end")
        if waiting:
            yield bytes(waiting)

    def _take(self, event: bytes) -> bool:
        """Look at an event; whether it is for the client, and not one that only we have asked for."""
        for line in event.splitlines():
            if line.startswith(b"data: {"):
                piece = read_piece(line[6:])
                self._note(piece)
                if self._added_usage and piece.is_usage:
                    return False
        return True

    def _note(self, piece: Piece) -> None:
        self._cost = self._cost if piece.cost is None else piece.cost
        self._letters += piece.letters

    def _most(self) -> int:
        """Weighted tokens that the answer can have cost, whatever the gateway says: a token of a prompt has a byte at
        least, and so has one that came."""
        limits = [self._asked.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
        known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
        choices = self._asked.get("n")
        tokens = min(known, default=USUAL_TOKENS) * (
            min(max(1, choices), MOST_CHOICES) if isinstance(choices, int) else 1
        )
        if self._began:
            tokens = min(tokens, self._bytes) if known else self._bytes
        return len(self._body) + MARGIN_TOKENS + W_GENERATED * tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer, or an event of one, says."""

    cost: int | None
    """Wei that it says it costs."""
    letters: int
    is_usage: bool
    """It says that and nothing else."""


def read_piece(data: bytes) -> Piece:
    """An answer's body, or an event's data; whatever is no such thing says nothing."""
    said = _object(data)
    cost: int | None = None
    for holder in (said, said.get("response"), said.get("message")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        claimed = usage.get("cost") if isinstance(usage, dict) else None
        wei = claimed.get("wei") if isinstance(claimed, dict) else None
        if isinstance(wei, str) and _WEI.fullmatch(wei):
            cost = int(wei)
    return Piece(cost, sum(map(len, _texts(said))), bool(said.get("usage")) and said.get("choices") == [])


def _texts(said: Mapping[str, Any]) -> list[str]:
    """The text of a piece of an answer, in the forms of all APIs."""
    found: list[Any] = []
    choices = said.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict):
            delta = choice.get("delta")
            found += [choice.get("text")]
            found += [delta.get(key) for key in ("content", "reasoning_content")] if isinstance(delta, dict) else []
            found += [json.dumps(delta["tool_calls"])] if isinstance(delta, dict) and delta.get("tool_calls") else []
    delta = said.get("delta")
    found += [delta.get("text"), delta.get("partial_json")] if isinstance(delta, dict) else [delta]
    return [text for text in found if isinstance(text, str)]


async def _bytes_of(parts: AsyncGenerator[httpx.Response | bytes]) -> AsyncIterator[bytes]:
    """What of it is the body. A client that leaves ends the request at the gateway too."""
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, bytes):
                yield part


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = safe_json.parse(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refused(why: Refusal) -> Response:
    return _error(why.status, why.text, "forbidden")


def _error(status: int, text: str, code: str) -> JSONResponse:
    return JSONResponse({"error": {"message": text, "type": "mesh_pay", "param": None, "code": code}}, status)
