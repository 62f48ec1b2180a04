"""`mesh gateway`: an OpenAI-compatible API over a swarm."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.console import emit, err, out, run, set_up_logging
from mesh.cli.identities import claim_identity, runtime_root
from mesh.cli.options import AsJson, IdentityFile, LogLevel, Peers, require_peers
from mesh.errors import ConfigError
from mesh.identity import Identity

if TYPE_CHECKING:
    import uvicorn

GRACE_SECONDS = 1.5


def gateway(
    peers: Peers = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    api_keys: Annotated[
        Path | None,
        typer.Option("--api-keys", help="File with one accepted API key per line.", show_default="open to everybody"),
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", min=1, help="Requests answered at once; more get 429.")
    ] = 64,
    identity: IdentityFile = None,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Serve /v1/models, /v1/completions and /v1/chat/completions over the swarm until Ctrl-C.

    The gateway holds no weights: it turns text into tokens, finds a route, and streams what the last stage says.
    """
    set_up_logging(log_level)
    joined = require_peers(peers)
    keys = _read_keys(api_keys)
    with claim_identity(identity) as own:
        run(_serve(joined, own, host, port, keys, max_concurrent, as_json), ends_on_signal=True)
    if not as_json:
        err.print("gateway stopped")


async def _serve(
    peers: tuple[str, ...],
    identity: Identity,
    host: str,
    port: int,
    keys: frozenset[str],
    max_concurrent: int,
    as_json: bool,
) -> None:
    from mesh.client.client import Client
    from mesh.gateway.app import create_app
    from mesh.gateway.config import GatewayConfig
    from mesh.gateway.serve import bind, server

    listener = bind(host, port)
    with listener:
        async with Client(peers, identity=identity, runtime_root=runtime_root()) as client:
            app = create_app(client.backend, GatewayConfig(api_keys=keys, max_concurrent=max_concurrent))
            async with server(app, listener) as running:
                shown = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
                if as_json:
                    emit("ready", url=f"{shown}/v1", peer=identity.peer_id)
                else:
                    out.print(f"OpenAI-compatible API at [bold]{shown}/v1[/] (Ctrl-C stops it)")
                await _serve_until_cancelled(running, listener)


async def _serve_until_cancelled(running: uvicorn.Server, listener: socket.socket) -> None:
    """Answers under way have `GRACE_SECONDS` to end once we are cancelled; then their clients are cut off."""
    serving = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        running.should_exit = True
        await asyncio.wait({serving}, timeout=GRACE_SECONDS)
        for connection in list(running.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await serving


def _read_keys(path: Path | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        from mesh.cli.console import fail

        raise fail(ConfigError(f"cannot read the API keys in {path}: {error}")) from error
    if not lines:
        raise typer.BadParameter(f"{path} holds no key", param_hint="--api-keys")
    return frozenset(lines)
