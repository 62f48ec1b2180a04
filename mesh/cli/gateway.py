"""`mesh gateway`: an OpenAI-compatible API over a swarm."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import paying
from mesh.cli.chain_session import read_amount
from mesh.cli.console import emit, err, out, run, set_up_logging, settled_on
from mesh.cli.identities import PINS, claim_key, data_folder, runtime_root
from mesh.cli.options import (
    AllowedHosts,
    AllowedOrigins,
    AsJson,
    AuditShare,
    IdentityFile,
    LogLevel,
    Peers,
    TransportKind,
    TransportOption,
    require_peers,
)
from mesh.cli.verifying import ServeUnverified, Weights, check_verified, verification
from mesh.errors import ConfigError
from mesh.identity import Identity
from shards.text.tool_format import TOOL_FORMATS

if TYPE_CHECKING:
    import uvicorn

    from mesh.dashboard.feed import Feed
    from mesh.gateway.keys import KeyLimits
    from mesh.payment.onchain.registration import Ask, PaymentConfig, Tell

GRACE_SECONDS = 1.5


def gateway(
    peers: Peers = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    api_keys: Annotated[
        Path | None,
        typer.Option(
            "--api-keys",
            help="File with one accepted API key per line; after it requests_per_minute=N, tokens_per_day=N, "
            "models=NAME,NAME where it is limited.",
            show_default="open to everybody",
        ),
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", min=1, help="Requests answered at once; more get 429.")
    ] = 64,
    max_connections: Annotated[int, typer.Option("--max-connections", min=1, help="Connections open at once.")] = 512,
    max_connections_per_address: Annotated[
        int,
        typer.Option("--max-connections-per-address", min=1, help="Of one address; behind a proxy, which is one: all."),
    ] = 128,
    identity: IdentityFile = None,
    rpc: paying.RpcUrl = None,
    wallet: paying.Wallet = None,
    gateway_id: Annotated[
        str | None, typer.Option("--gateway-id", help="Our id on the chain.", show_default="the peer id")
    ] = None,
    stake: Annotated[
        str | None,
        typer.Option(
            "--stake", help="FUNC to stake when registering.", show_default="the least there may be, and 100 for lines"
        ),
    ] = None,
    credit: paying.Credit = 1024,
    host_maddrs: Annotated[
        list[str] | None,
        typer.Option(
            "--host-maddrs",
            help="Where providers reach a gateway that pays them, for its checkpoints.",
            show_default="/ip4/0.0.0.0/tcp/0",
        ),
    ] = None,
    allowed_hosts: AllowedHosts = None,
    allowed_origins: AllowedOrigins = None,
    tool_parser: Annotated[
        str | None,
        typer.Option(
            "--tool-parser",
            help="How the models write tool calls: hermes, qwen_xml, mistral, llama or pythonic.",
            show_default="as each model's chat template shows",
        ),
    ] = None,
    generation_config: Annotated[
        bool,
        typer.Option(
            "--generation-config/--no-generation-config",
            help="Sample as a model's generation_config.json says where a request says nothing; else as OpenAI.",
        ),
    ] = True,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log a line for each request, with its X-Request-ID.")
    ] = False,
    request_timeout: Annotated[
        float, typer.Option("--request-timeout", min=1, help="Seconds that a whole answer may take.")
    ] = 600,
    keep_alive: Annotated[
        float, typer.Option("--keep-alive", min=1, help="Seconds after which an idle connection is closed.")
    ] = 5,
    requests_per_minute: Annotated[
        float, typer.Option("--requests-per-minute", min=1, help="Most requests of one developer's key.")
    ] = 600,
    tokens_per_minute: Annotated[
        float, typer.Option("--tokens-per-minute", min=1, help="Most tokens of one developer's key.")
    ] = 1_000_000,
    reserve_deposit: Annotated[
        str | None,
        typer.Option("--reserve-deposit", help="FUNC of deposit that keeps places free.", show_default="nobody's does"),
    ] = None,
    reserve_sessions: Annotated[
        int, typer.Option("--reserve-sessions", min=1, help="Places that such a deposit keeps free.")
    ] = 4,
    deployment: paying.Deployment = None,
    password_file: paying.PasswordFile = None,
    payment_folder: paying.PaymentFolder = None,
    claim: paying.Claim = True,
    chain_poll: paying.ChainPoll = 2.0,
    yes: paying.Yes = False,
    digests: Annotated[
        list[str] | None,
        typer.Option(
            "--digest",
            help="NAME=DIGEST: which model a name means, where no chain says it; may be repeated.",
            show_default="the one that was used first",
        ),
    ] = None,
    audit: AuditShare = None,
    weights: Weights = None,
    serve_unverified: ServeUnverified = False,
    transport: TransportOption = TransportKind.HIVEMIND,
    show_dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="A page that shows the swarm, at /.")
    ] = True,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Serve /v1/models, /v1/completions and /v1/chat/completions over the swarm until Ctrl-C.

    The gateway holds no weights: it turns text into tokens, finds a route, and streams what the last stage says.

    With --wallet it is a gateway on the chain: it registers and stakes (after asking you once), pays providers with
    vouchers, bills developers by their deposits (`mesh key new`, `mesh pay`), and settles every epoch. It wants the
    --weights of the models that it pays for: a provider is paid once its blocks, run again here, gave the same.
    """
    set_up_logging(log_level)
    if tool_parser is not None and tool_parser not in TOOL_FORMATS:
        raise typer.BadParameter(f"one of {', '.join(TOOL_FORMATS)}", param_hint="--tool-parser")
    joined = require_peers(peers)
    check_verified(weights, serve_unverified=serve_unverified, paid=wallet is not None)
    keys = _read_keys(api_keys)
    payment = settled_on(
        lambda: paying.read_payment(
            rpc=rpc,
            wallet=wallet,
            deployment=deployment,
            password_file=password_file,
            identifier=gateway_id,
            credit=credit,
            folder=payment_folder,
            claims=claim,
            chain_poll=chain_poll,
            stake=None if stake is None else read_amount(stake, name="--stake"),
        )
    )
    if payment is not None and keys:
        raise typer.BadParameter("a gateway that is paid makes keys for its accounts itself", param_hint="--api-keys")
    reserve = None if reserve_deposit is None else read_amount(reserve_deposit, name="--reserve-deposit")
    limits = _KeyLimits(requests_per_minute, tokens_per_minute, reserve, reserve_sessions)
    reachable = tuple(host_maddrs or ["/ip4/0.0.0.0/tcp/0"])
    sockets = (max_connections, max_connections_per_address)
    with claim_key(identity, "gateway") as held:
        own = held.identity()
        config = _Config(
            peers=joined,
            identity=own,
            host=host,
            port=port,
            keys=keys,
            max_concurrent=max_concurrent,
            connections=sockets,
            as_json=as_json,
            payment=payment,
            key_limits=limits,
            host_maddrs=reachable,
            transport=transport,
            audit=audit,
            weights=tuple(weights or ()),
            serve_unverified=serve_unverified,
            digests=_read_pins(digests),
            hosts=(host, *(allowed_hosts or ())),
            origins=tuple(allowed_origins or ()),
            tool_parser=tool_parser,
            generation_config=generation_config,
            access_log=access_log,
            request_timeout=request_timeout,
            keep_alive=keep_alive,
            dashboard=show_dashboard,
        )
        run(_serve(config, paying.asker(yes)), ends_on_signal=True)
    if not as_json:
        err.print("gateway stopped")


@dataclass(frozen=True, slots=True)
class _KeyLimits:
    """What each developer's key may do; `reserve_deposit` in wei."""

    requests: float
    tokens: float
    reserve_deposit: int | None
    reserve_sessions: int


@dataclass(frozen=True, slots=True)
class _Config:
    """What `mesh gateway` was asked."""

    peers: tuple[str, ...]
    identity: Identity
    host: str
    port: int
    keys: dict[str, KeyLimits]
    max_concurrent: int
    connections: tuple[int, int]
    """At most so many, and of one address."""
    as_json: bool
    payment: PaymentConfig | None
    key_limits: _KeyLimits
    host_maddrs: tuple[str, ...]
    transport: TransportKind
    audit: float | None
    weights: tuple[str, ...]
    serve_unverified: bool
    digests: dict[str, str]
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    tool_parser: str | None
    generation_config: bool
    access_log: bool
    request_timeout: float
    keep_alive: float
    dashboard: bool


async def _serve(config: _Config, ask: Ask) -> None:
    from mesh.client.client import Client
    from mesh.gateway.app import create_app
    from mesh.gateway.config import GatewayConfig
    from mesh.gateway.connections import ConnectionLimits
    from mesh.gateway.serve import bind, freeze_what_is_loaded, server, url_of

    limits = GatewayConfig(
        api_keys=frozenset(config.keys),
        key_limits=config.keys,
        max_concurrent=config.max_concurrent,
        cors_origins=config.origins,
        hosts=config.hosts,
        tool_parser=config.tool_parser,
        generation_defaults=config.generation_config,
        access_log=config.access_log,
        request_timeout=config.request_timeout,
    )
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(config.host, config.port))
        paid = leaves = None
        if config.payment is not None:
            from mesh.gateway.billing import BillingConfig
            from mesh.gateway.paid import PaidGateway

            terms = config.payment.terms
            billing = BillingConfig(
                increment_tokens=terms.tokens,
                pause_seconds=terms.pause_seconds / 2,  # a developer who is short must not make us look so
                requests_per_minute=config.key_limits.requests,
                tokens_per_minute=config.key_limits.tokens,
                reserve_deposit=config.key_limits.reserve_deposit,
                reserve_sessions=config.key_limits.reserve_sessions,
            )
            paid = await stack.enter_async_context(
                PaidGateway.open(config.payment, billing, config.identity, ask, _tell(config.as_json))
            )
        book = (
            None if paid is None else paid.registration.config.folder / f"trials-{paid.registration.file_name}.sqlite"
        )
        verifies = await asyncio.to_thread(
            stack.enter_context,
            verification(
                list(config.weights), book, serve_unverified=config.serve_unverified, show_bars=not config.as_json
            ),
        )
        client = Client(
            config.peers,
            identity=config.identity,
            runtime_root=runtime_root(),
            host_maddrs=config.host_maddrs if paid is not None else (),
            issuer=paid.issuer if paid is not None else None,
            transport=config.transport.value,
            audit=config.audit,
            digests=config.digests,
            pins=data_folder() / PINS if paid is None else None,
            verification=verifies,
        )
        await stack.enter_async_context(client)
        if paid is not None:
            show = partial(paying.show_settlement, as_json=config.as_json)
            leaves = await stack.enter_async_context(paid.running(client, show))
        app = create_app(client.backend, limits, billing=paid.billing if paid is not None else None)
        if leaves is not None:
            from mesh.gateway.leaves_api import leaves_routes
            from mesh.gateway.verification_api import verification_routes

            app.include_router(leaves_routes(leaves))
            app.include_router(verification_routes(client.backend))
        if paid is not None and client.backend.issuer is not None:
            paid.count(client.backend.issuer, app.state.gateway.metrics)
        feed = None
        if config.dashboard:
            from mesh.gateway.dashboard import dashboard

            feed = await stack.enter_async_context(dashboard(app, client.backend, client.node.transport))
        bounds = ConnectionLimits(*config.connections, keep_alive_seconds=config.keep_alive)
        running = await stack.enter_async_context(server(app, listener, bounds))
        freeze_what_is_loaded()
        shown = url_of(config.host, listener)
        if config.as_json:
            emit("ready", url=f"{shown}/v1", peer=config.identity.peer_id)
        else:
            out.print(f"OpenAI-compatible API at [bold]{shown}/v1[/] (Ctrl-C stops it)")
            if feed is not None:
                out.print(f"the swarm, to look at: [bold]{shown}/[/]")
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(client.node.watch())
            await serve_until_cancelled(running, listener, feed)
            watching.cancel()


def _tell(as_json: bool) -> Tell:
    def tell(what: str, tx: str) -> None:
        if as_json:
            emit("staked", what=what, tx=tx)
        else:
            out.print(f"{what} [dim]({tx})[/]")

    return tell


async def serve_until_cancelled(running: uvicorn.Server, listener: socket.socket, feed: Feed | None = None) -> None:
    """Answers under way have `GRACE_SECONDS` to end once we are cancelled; then their clients are cut off.

    The streams of `feed` never end by themselves, and are not waited for.
    """
    serving = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        running.should_exit = True
        if feed is not None:
            feed.stop()
        await asyncio.wait({serving}, timeout=GRACE_SECONDS)
        for connection in list(running.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await serving


def _read_pins(texts: list[str] | None) -> dict[str, str]:
    pairs = [text.rpartition("=") for text in texts or []]
    if any(not name or not digest for name, _, digest in pairs):
        raise typer.BadParameter("write NAME=DIGEST", param_hint="--digest")
    return {name: digest for name, _, digest in pairs}


def _read_keys(path: Path | None) -> dict[str, KeyLimits]:
    from mesh.gateway.keys import parse_keys

    if path is None:
        return {}
    try:
        keys = parse_keys(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        from mesh.cli.console import fail

        raise fail(ConfigError(f"cannot read the API keys in {path}: {error}")) from error
    if not keys:
        raise typer.BadParameter(f"{path} holds no key", param_hint="--api-keys")
    return keys
