"""`--metrics-port`: a node's figures for Prometheus, at /metrics on a port of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.console import emit, out

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Serve /metrics for Prometheus on this port; 0: any.",
        show_default="not at all",
    ),
]
MetricsHost = Annotated[
    str, typer.Option("--metrics-host", help="Address on which /metrics is served; 0.0.0.0 for all.")
]
LOOPBACK = "127.0.0.1"


def tell_url(url: str | None, *, as_json: bool) -> None:
    """Say where the figures are."""
    if url is not None and as_json:
        emit("metrics", url=url)
    elif url is not None:
        out.print(f"figures for Prometheus at [bold]{url}[/]")


@asynccontextmanager
async def metrics_server(host: str, port: int | None, registry: CollectorRegistry) -> AsyncIterator[str | None]:
    """Serve `registry` while we are inside; yields its URL, None without a port. Raises `ConfigError`."""
    if port is None:
        yield None
        return
    from fastapi import FastAPI
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.responses import Response

    from mesh.gateway.serve import bind, server, url_of

    app = FastAPI(openapi_url=None, redirect_slashes=False)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    with bind(host, port) as listener:
        async with server(app, listener) as running:
            serving = asyncio.create_task(running.serve(sockets=[listener]))
            try:
                yield f"{url_of(host, listener)}/metrics"
            finally:
                running.should_exit = running.force_exit = True
                await serving
