"""`mesh dashboard`: a page that shows any swarm, without a gateway."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated

import typer

from mesh.cli.console import emit, err, out, run, set_up_logging
from mesh.cli.gateway import serve_until_cancelled
from mesh.cli.identities import runtime_root
from mesh.cli.options import AllowedHosts, AsJson, LogLevel, Peers, TransportKind, TransportOption, require_peers


def dashboard(
    peers: Peers = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    allowed_hosts: AllowedHosts = None,
    transport: TransportOption = TransportKind.HIVEMIND,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Show a swarm as a web page until Ctrl-C: who serves what, how fast, and what is missing.

    `mesh gateway` has the same page at its own address, with its requests and a chat beside.
    """
    set_up_logging(log_level)
    hosts = (host, *(allowed_hosts or ()))
    run(_serve(require_peers(peers), host, port, hosts, transport, as_json), ends_on_signal=True)
    if not as_json:
        err.print("dashboard stopped")


async def _serve(
    peers: tuple[str, ...], host: str, port: int, hosts: tuple[str, ...], transport: TransportKind, as_json: bool
) -> None:
    from fastapi import FastAPI
    from starlette.responses import PlainTextResponse

    from chain.http_guard import Allowed, HttpGuard
    from mesh.client.client import Client
    from mesh.dashboard.feed import Feed
    from mesh.dashboard.routes import Events, Page, routes
    from mesh.dashboard.snapshot import About
    from mesh.dashboard.watch import SwarmWatch
    from mesh.gateway.connections import ConnectionLimits
    from mesh.gateway.serve import bind, freeze_what_is_loaded, server, url_of
    from mesh.version import VERSION

    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(host, port))
        client = await stack.enter_async_context(Client(peers, runtime_root=runtime_root(), transport=transport.value))
        about = About(peer=client.node.peer_id, version=VERSION)
        watch = await stack.enter_async_context(SwarmWatch(client.backend, client.node.transport, lambda: about))
        feed = Feed(watch.look)
        app = FastAPI(openapi_url=None, redirect_slashes=False)
        app.add_middleware(
            HttpGuard, allowed=Allowed.of(hosts), answer=lambda why: PlainTextResponse(why.text, why.status)
        )
        app.router.routes.extend(routes(Page(), Events(feed, lambda request: False)))
        running = await stack.enter_async_context(server(app, listener, ConnectionLimits()))
        freeze_what_is_loaded()
        url = f"{url_of(host, listener)}/"
        if as_json:
            emit("ready", url=url)
        else:
            out.print(f"the swarm, to look at: [bold]{url}[/] (Ctrl-C stops it)")
        await serve_until_cancelled(running, listener, feed)
