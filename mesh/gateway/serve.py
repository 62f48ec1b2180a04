"""Running the gateway's app under uvicorn inside our own event loop, on a socket that we bind ourselves."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from fastapi import FastAPI

from mesh.errors import ConfigError
from mesh.gateway.connections import ConnectionLimits, guarded_protocol

BACKLOG = 512
GRACE_SECONDS = 3


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the command that runs us decides when we stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def freeze_what_is_loaded() -> None:
    """From now on the collector passes over all that is there: mostly modules, which stay.

    A pass over them took 0.22 s, in which nothing else runs; on a busy machine that was more than a second.
    """
    gc.collect()
    gc.freeze()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `ConfigError` when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's algorithm off: 6 ms a short answer instead of 46.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} is already in use: stop what uses it, or give another --port") from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    listener.setblocking(False)
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """Where what listens is reached, without a path."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def server_config(app: FastAPI, limits: ConnectionLimits | None = None) -> uvicorn.Config:
    """How uvicorn serves the app: with bounded connections, and without web sockets, which would not be counted."""
    bounds = limits or ConnectionLimits()
    return uvicorn.Config(
        app,
        http=guarded_protocol(bounds),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=math.ceil(bounds.keep_alive_seconds),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@contextlib.asynccontextmanager
async def server(
    app: FastAPI, listener: socket.socket, limits: ConnectionLimits | None = None
) -> AsyncIterator[uvicorn.Server]:
    """The server, not yet running: `await server.serve(sockets=[listener])` runs it until it is cancelled."""
    running = _Server(server_config(app, limits))
    try:
        yield running
    finally:
        running.should_exit = True
        listener.close()
