"""The HTTP edge: reading a body's fields, noticing that the client left, observing every request."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh.gateway.errors import ApiError, ApiFailure, invalid_body
from mesh.gateway.job import new_id
from mesh.gateway.metrics import UNKNOWN_MODEL, Metrics

if TYPE_CHECKING:
    from mesh.gateway.callers import Caller
    from mesh.gateway.keys import KeyMeter

access = logging.getLogger("mesh.gateway.access")

CLIENT_LEFT = 499
"""Status under which requests are counted whose client did not wait for the answer (nginx's figure)."""

CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may choose as x-request-id; anything else is replaced by an id of ours."""

_NOTES = "mesh.notes"
_RequestModel = TypeVar("_RequestModel", bound=BaseModel)


class ClientLeft(Exception):
    """The client closed the connection, or stopped reading."""


@dataclass(slots=True)
class Notes:
    """What is known of a request besides its ASGI scope."""

    request_id: str
    chosen: bool = False
    """The client chose the id."""
    model: str = UNKNOWN_MODEL
    status: int | None = None
    """Overrides the status that was sent: a stream can fail after its 200."""
    counted: bool = False
    caller: Caller | None = None
    """The account that pays, where one does."""
    meter: KeyMeter | None = None
    """What the operator's own key may do, where it is limited."""
    asker: str = ""
    """Who asks: what was said before is kept for each apart. A key, or without keys an address."""


def notes_of(scope: Scope) -> Notes:
    """The notes that `Observer` attached to the request."""
    notes = scope[_NOTES]
    assert isinstance(notes, Notes)
    return notes


class Observer:
    """ASGI middleware: gives each request an id (its own x-request-id, if it has one), and counts it when it ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, access_log: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chosen = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        is_id = CLIENT_ID.fullmatch(chosen) is not None
        notes = Notes(chosen if is_id else new_id("req"), is_id)
        scope[_NOTES] = notes
        sent = 500
        arrived = time.monotonic()

        async def observed(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", notes.request_id.encode())]
                message = {**message, "headers": headers}
            elif not message.get("more_body", False):
                # Before the client can see the end, so that its next look at /metrics counts it.
                self._count(scope, notes, sent, arrived)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            self._count(scope, notes, sent, arrived)

    def _count(self, scope: Scope, notes: Notes, sent: int, arrived: float) -> None:
        if not notes.counted:
            notes.counted = True
            route = getattr(scope.get("route"), "path", "unmatched")
            status = sent if notes.status is None else notes.status
            self._metrics.requests.labels(route, notes.model, str(status)).inc()
            if self._access_log:
                access.info(
                    "%s %s %d %.3fs model=%s source=%s request=%s",
                    scope["method"],
                    _loggable(scope["path"]),
                    status,
                    time.monotonic() - arrived,
                    notes.model,
                    (scope.get("client") or ("-",))[0],
                    notes.request_id,
                )


def _loggable(path: str) -> str:
    """A path on one line of a log: a client may put anything into it."""
    return quote(path, safe="/:@!$&'()*+,;=~-._")[:200]


def parse_body(schema: type[_RequestModel], body: bytes) -> _RequestModel:
    """The body as `schema`. Raises `ApiFailure` (400) when it is not UTF-8, not JSON or of wrong types."""
    try:
        text = body.decode("utf-8-sig")  # PowerShell and some editors put a byte order mark before it
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8 (byte {error.start})."
        raise ApiFailure(ApiError(400, message, code="invalid_encoding")) from None
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise ApiFailure(invalid_body(error)) from None


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, but cancel it and raise `ClientLeft` as soon as the client closes the connection.

    Call it when the body has been read. Plain task cancellation, once: cleanup inside `work` may await.
    """
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        left = not worker.done()
    finally:
        for task in (worker, watcher):
            task.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)
    if left:
        raise ClientLeft
    worker.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
