"""The dashboard of a gateway: its own requests beside the swarm, and who may see them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.requests import Request

from mesh.dashboard.feed import Feed
from mesh.dashboard.routes import Events, Page, routes
from mesh.dashboard.snapshot import MAX_REQUESTS, About, RequestRow, rounded, route_of
from mesh.dashboard.watch import SwarmSource, SwarmWatch
from mesh.gateway.reports import RequestReport
from mesh.gateway.service import Gateway
from mesh.transport.port import Transport
from mesh.version import VERSION


@asynccontextmanager
async def dashboard(app: FastAPI, source: SwarmSource, transport: Transport) -> AsyncIterator[Feed]:
    """Add the dashboard to a gateway's app, over the backend that it has; stop the feed to end its streams."""
    gateway: Gateway = app.state.gateway

    def about() -> About:
        return About(
            peer=transport.peer_id,
            version=VERSION,
            chat=True,
            needs_key=_needs_key(gateway),
            running=gateway.running,
            max_concurrent=gateway.config.max_concurrent,
        )

    async with SwarmWatch(source, transport, about, lambda: request_rows(gateway)) as watch:
        feed = Feed(watch.look)
        most = gateway.config.max_viewers
        events = Events(feed, lambda request: may_see_requests(gateway, request), most=most)
        app.router.routes.extend(routes(Page(), events))
        try:
            yield feed
        finally:
            feed.stop()


def may_see_requests(gateway: Gateway, request: Request) -> bool | None:
    """With keys only an operator's; without, everybody who reaches it. None: the key that was shown is none.

    The swarm may be seen by all: every record in it is public.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if not _needs_key(gateway):
        return True
    if scheme.lower() != "bearer":
        return False
    given = key.strip().encode("latin-1")
    matches = [hmac.compare_digest(given, each.encode()) for each in gateway.config.api_keys]  # all, in constant time
    if any(matches):
        return True
    known = gateway.billing is not None and gateway.billing.caller(key.strip()) is not None
    return False if known else None


def request_rows(gateway: Gateway) -> Mapping[str, RequestRow]:
    """The newest requests. Their ids open /mesh/requests, so the rows have other keys, which tell nothing."""
    newest = gateway.requests.newest(MAX_REQUESTS)
    return {hashlib.sha256(report.id.encode()).hexdigest()[:12]: _row(report) for report in newest}


def _row(report: RequestReport) -> RequestRow:
    rate = report.tokens_per_second
    return RequestRow(
        model=report.model,
        status=report.status,
        created=report.created,
        sessions=report.sessions,
        tokens=report.tokens,
        first_token_ms=None if report.first_token is None else rounded(report.first_token * 1000),
        rate=None if rate is None else rounded(rate),
        route=route_of((hop.peer, hop.span) for hop in report.hops),
    )


def _needs_key(gateway: Gateway) -> bool:
    return bool(gateway.config.api_keys) or gateway.billing is not None
