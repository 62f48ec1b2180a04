"""The dashboard's URLs: the page, its files, and the stream of events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mesh.dashboard.feed import Feed, Viewer

MAX_VIEWERS: Final = 64
SEND_SECONDS: Final = 10.0
"""A viewer that does not take an event for so long is dropped; it may come back with its last event's id."""

STATIC: Final = "/dashboard"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
_INLINE: Final = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)
_EVENT_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]

MayLook = Callable[[Request], bool | None]
"""Whether who asks may see this node's requests too; None: it showed a key that is none."""


def content_security_policy(page: str) -> str:
    """Nothing but our own files. The import map must stand in the page: it is let in by its hash."""
    hashes = "".join(
        f" 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in _INLINE.findall(page)
    )
    return (
        f"default-src 'none'; script-src 'self'{hashes}; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


class Page:
    """The files of the package, read once: there are few, and they do not change while we run."""

    def __init__(self) -> None:
        folder = files("mesh.dashboard") / "static"
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for prefix, place in (("", folder), ("vendor/", folder / "vendor")):
            for entry in place.iterdir():
                suffix = "." + entry.name.rpartition(".")[2]
                if entry.is_file() and suffix in _TYPES:
                    data = entry.read_bytes()
                    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
                    self._files[prefix + entry.name] = data, _TYPES[suffix], tag
        self._policy = content_security_policy(self._files["index.html"][0].decode())

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """One of its files."""
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            return Response("Not Found", 404)
        data, kind, tag = found
        # A vendored file has its version in its name; of the others the browser asks each time whether they changed.
        headers = {
            "etag": tag,
            "cache-control": "public, max-age=31536000, immutable" if name.startswith("vendor/") else "no-cache",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "content-security-policy": self._policy,
        }
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)


class Events:
    """The stream. `may_look` says of each viewer what it may see."""

    def __init__(self, feed: Feed, may_look: MayLook, *, most: int = MAX_VIEWERS) -> None:
        self._feed = feed
        self._may_look = may_look
        self._most = most
        self.viewers = 0
        """Streams open now."""

    async def stream(self, request: Request) -> Response:
        """`GET /mesh/events`."""
        private = self._may_look(request)
        if private is None:
            return Response("Incorrect API key.", 401, {"www-authenticate": "Bearer"})
        if self.viewers >= self._most:
            return Response("There are too many viewers.", 503, {"retry-after": "5"})
        if request.method == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in _EVENT_HEADERS})
        return _EventStream(
            self, self._feed, self._feed.viewer(request.headers.get("last-event-id", ""), private=private)
        )


class _EventStream(Response):
    """Sends events until its viewer leaves, stops reading, or the feed ends."""

    def __init__(self, events: Events, feed: Feed, viewer: Viewer) -> None:
        super().__init__()
        self._events = events
        self._feed = feed
        self._viewer = viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._events.viewers += 1
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._events.viewers -= 1
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
        while True:
            events = await self._feed.next(self._viewer)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": events or b"", "more_body": events is not None})
            except TimeoutError:
                return
            if events is None:
                return


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def routes(page: Page, events: Events) -> list[Route]:
    """All of them: the page at `/`, its files under `/dashboard`, the events at `/mesh/events`."""
    return [
        Route("/", page.index, methods=["GET"]),
        Route(f"{STATIC}/{{name:path}}", page.file, methods=["GET"]),
        Route("/mesh/events", events.stream, methods=["GET"]),
    ]
