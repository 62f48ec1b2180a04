"""Keeps web pages of strangers away from an HTTP endpoint that trusts all who reach it; pure, and as ASGI middleware.

A browser sends what a page asks, also to addresses that only its user can reach. Three rules stop that:

- a request with a body must say `Content-Type: application/json`. A page of another origin may only send that after
  asking (a preflight), which is not granted; what it may send unasked has other types;
- `Origin`, which browsers add and other programs leave out, must be the endpoint's own or a configured one;
- `Host` must be an IP address, a name of this machine, or a configured one: a name that its owner has made point here
  (DNS rebinding) is none of these.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
ANY: Final = "*"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator lets in besides what is safe by itself."""

    hosts: frozenset[str] = frozenset()
    """Names (without port) under which the endpoint may be addressed; `*`: all."""
    origins: frozenset[str] = frozenset()
    """Origins (`https://app.example`) whose pages may send requests; `*`: all."""

    @classmethod
    def of(cls, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> Allowed:
        """Names and origins as they are typed, in any case."""
        return cls(
            frozenset(host.strip().rstrip(".").lower() for host in hosts),
            frozenset(origin.strip().rstrip("/").lower() for origin in origins),
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in: the HTTP status and a sentence for its sender."""

    status: int
    text: str


def host_of(authority: str) -> str | None:
    """The host in `name:port`, in lower case; None where it is none."""
    try:
        parts = urlsplit(f"//{authority}")
        parts.port  # noqa: B018  raises for one that is no number
        host = parts.hostname
    except ValueError:
        return None
    if not host or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return host.rstrip(".").lower()


def refusal(
    method: str, headers: Iterable[tuple[bytes, bytes]], allowed: Allowed, *, checks_callers: bool = True
) -> Refusal | None:
    """Why not to let a request in; None when it may pass.

    With `checks_callers` false (every caller shows a key, which a page does not have) only the type is looked at.
    """
    rows = [(name.lower(), value.decode("latin-1").strip()) for name, value in headers]

    def values(wanted: bytes) -> list[str]:
        return [value for name, value in rows if name == wanted]

    if checks_callers:
        hosts, origins = values(b"host"), values(b"origin")
        if any(not _may_address(host, allowed) for host in hosts):
            return Refusal(
                403,
                f"This endpoint is not reached under the name {hosts[0][:100]!r}: use its address or localhost, "
                "or start it with --allowed-host NAME.",
            )
        if method not in READS and any(not _may_send(origin, hosts, allowed) for origin in origins):
            return Refusal(
                403,
                f"Pages of {origins[0][:100]!r} may not use this endpoint: start it with --allowed-origin ORIGIN "
                "if they shall.",
            )
    if method not in READS:
        kinds = values(b"content-type")
        if not kinds and not values(b"transfer-encoding") and set(values(b"content-length")) <= {"0"}:
            return None  # nothing is said
        if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != JSON:
            given = f"not {kinds[0][:100]!r}" if kinds else "and it was not said at all"
            return Refusal(
                415, f"The body must be JSON, sent with the header 'Content-Type: {JSON}' (curl: -H), {given}."
            )
    return None


def _may_address(authority: str, allowed: Allowed) -> bool:
    host = host_of(authority)
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost") or host in allowed.hosts or ANY in allowed.hosts:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True  # nobody can make an address point elsewhere


def _may_send(origin: str, hosts: list[str], allowed: Allowed) -> bool:
    origin = origin.lower()
    if origin in allowed.origins or ANY in allowed.origins:
        return True
    scheme, mark, authority = origin.partition("://")
    return bool(mark) and scheme in ("http", "https") and len(hosts) == 1 and authority == hosts[0].lower()


class HttpGuard:
    """ASGI middleware that lets in what `refusal` does not refuse; `answer` makes the response to the others."""

    def __init__(
        self, app: ASGIApp, allowed: Allowed, answer: Callable[[Refusal], Response], *, checks_callers: bool = True
    ) -> None:
        self._app = app
        self._allowed = allowed
        self._answer = answer
        self._checks_callers = checks_callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            why = refusal(scope["method"], scope["headers"], self._allowed, checks_callers=self._checks_callers)
            if why is not None:
                await self._answer(why)(scope, receive, send)
                return
        await self._app(scope, receive, send)
