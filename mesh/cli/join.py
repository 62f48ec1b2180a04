"""`mesh join`: serve blocks of a model as a provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli import paying
from mesh.cli.console import ProgressBars, err, run, set_up_logging, settled_on
from mesh.cli.identities import claim_key, runtime_root
from mesh.cli.join_events import show
from mesh.cli.join_stages import (
    NodeOptions,
    PlanOptions,
    check_node,
    given,
    serve_stages,
    several_stages,
    show_plan,
)
from mesh.cli.metrics import LOOPBACK, MetricsHost, MetricsPort, metrics_server, tell_url
from mesh.cli.options import (
    AsJson,
    DirectPort,
    IdentityFile,
    LogLevel,
    Peers,
    Quantize,
    Relays,
    choose_relays,
    listen_everywhere,
    read_blocks,
    read_size,
    split_peers,
)

KV_CACHE = "1GiB"


def join(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A checkpoint folder, a GGUF file, a Hugging Face name, or tiny-python, which ships. "
            "Repeated: a stage of each.",
        ),
    ],
    peers: Peers = None,
    blocks: Annotated[
        str, typer.Option("--blocks", help="`auto`, or `start:end` (end not included) to choose them yourself.")
    ] = "auto",
    max_blocks: Annotated[
        int | None,
        typer.Option("--max-blocks", min=1, help="Most blocks for auto.", show_default="a third of the model"),
    ] = None,
    rebalance: Annotated[
        bool,
        typer.Option("--rebalance/--no-rebalance", help="With auto, move later to blocks that need this node more."),
    ] = True,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="auto, cpu, cuda, cuda:1, mps: where the blocks run. Repeated, or `all`: a stage on each; "
            "MODEL=DEVICE says which model goes there.",
            show_default="auto",
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")
    ] = "auto",
    quantize: Quantize = None,
    host_maddrs: Annotated[
        list[str] | None,
        typer.Option(
            "--host-maddrs",
            help="Address to listen on; may be repeated. Use /ip4/127.0.0.1/tcp/0 to stay on this machine.",
            show_default="/ip4/0.0.0.0/tcp/0, or IPv6 where there is nothing else",
        ),
    ] = None,
    announce_maddrs: Annotated[
        list[str] | None,
        typer.Option("--announce-maddrs", help="Address to tell others, where a port is forwarded to this machine."),
    ] = None,
    direct_port: DirectPort = 0,
    relay: Relays = None,
    identity: IdentityFile = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name under which to serve the model.", show_default="as asked for")
    ] = None,
    kv_cache: Annotated[
        str | None, typer.Option("--kv-cache", help="Memory for sessions' caches, of each stage.", show_default="1GiB")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads for computing.", show_default="the fastest here")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for downloads.", show_default="huggingface_hub's")
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", min=0, help="How long sessions may go on at Ctrl-C, before others take them."),
    ] = 10.0,
    rpc: paying.RpcUrl = None,
    wallet: paying.Wallet = None,
    provider_id: Annotated[
        str | None, typer.Option("--provider-id", help="Our id on the chain.", show_default="the peer id")
    ] = None,
    credit: paying.Credit = 1024,
    deployment: paying.Deployment = None,
    password_file: paying.PasswordFile = None,
    payment_folder: paying.PaymentFolder = None,
    claim: paying.Claim = True,
    chain_poll: paying.ChainPoll = 2.0,
    yes: paying.Yes = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say which stages it would serve, on which devices, and end.")
    ] = False,
    start_at: Annotated[str | None, typer.Option("--start-at", hidden=True)] = None,
    device_share: Annotated[float, typer.Option("--device-share", hidden=True)] = 1.0,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Join a swarm (or start one) and serve blocks of a model until Ctrl-C.

    At Ctrl-C (SIGTERM, or a terminal that is closed) it takes no new session, lets those that run end or hands them
    over, withdraws its record and goes; at the second one it goes at once.

    Without --peers this node starts a new swarm and prints the address through which others join. With
    `--blocks auto` it takes the blocks that are needed most: those that nobody serves, else the slowest part. Later it
    moves when others leave a gap that it has memory for, or when it would help clearly more elsewhere.

    Several --model or --device make several stages, each a process and a peer of its own. Those of one model choose
    their blocks together, so that they complement each other.

    With --wallet the work is paid for: the node registers as a provider of the model, stakes what the model asks for
    (after asking you once), and works only for staked gateways that sign vouchers for what was done.
    """
    set_up_logging(log_level)
    span = read_blocks(blocks)
    kv_bytes = read_size(kv_cache or KV_CACHE)
    listen = tuple(host_maddrs or listen_everywhere(0))
    announced = tuple(announce_maddrs or [])
    initial_peers = split_peers(peers)
    relays = choose_relays(relay, initial_peers, listen, announced)
    if plan:
        show_plan(
            PlanOptions(
                models=tuple(model),
                devices=tuple(device or ()),
                peers=initial_peers,
                name=name,
                dtype=dtype,
                quantize=quantize,
                max_blocks=max_blocks,
                kv_bytes=kv_bytes if kv_cache else None,
                cache=cache,
                key=identity,
            ),
            as_json=as_json,
        )
        return
    if several_stages(model, device or ()):
        check_node(blocks=blocks, name=name, models=model, paid=wallet is not None, yes=yes)
        node_options = NodeOptions(
            models=tuple(model),
            devices=tuple(device or ()),
            peers=initial_peers,
            shared=given(context),
            host_maddrs=listen,
            announce_maddrs=announced,
            direct_port=direct_port,
            threads=threads,
            kv_cache=kv_cache,
            provider_id=provider_id,
            wallet=wallet,
            password_file=password_file,
            metrics_port=metrics_port,
        )
        serve_stages(node_options, identity, as_json=as_json)
        return
    payment = settled_on(
        lambda: paying.read_payment(
            rpc=rpc,
            wallet=wallet,
            deployment=deployment,
            password_file=password_file,
            identifier=provider_id,
            credit=credit,
            folder=payment_folder,
            claims=claim,
            chain_poll=chain_poll,
        )
    )
    with claim_key(identity, "provider") as held:
        own = held.identity()
        # torch and hivemind take seconds to import: only now, so that --help and bad options answer at once.
        from mesh.node import NodeConfig
        from mesh.provider.config import REBALANCE_SECONDS, JoinConfig, Leaving
        from mesh.provider.join import join as join_swarm
        from mesh.provider.metrics import provider_registry
        from shards.model.devices import choose_device

        config = JoinConfig(
            model=model[0],
            node=NodeConfig(
                identity=own,
                host_maddrs=listen,
                announce_maddrs=announced,
                initial_peers=initial_peers,
                relays=relays,
                runtime_root=runtime_root(),
                direct_port=None if direct_port < 0 else direct_port,
            ),
            name=name,
            blocks=span,
            max_blocks=max_blocks,
            rebalance_seconds=REBALANCE_SECONDS if rebalance else None,
            start_at=read_blocks(start_at or "auto"),
            device_share=device_share,
            device=choose_device(device[0] if device else "auto"),
            dtype=dtype,
            quantize=quantize,
            cache=cache,
            kv_bytes=kv_bytes,
            threads=threads,
            drain_seconds=drain_seconds,
            payment=payment,
            approve=paying.asker(yes),
        )
        with ProgressBars(enabled=not as_json) as progress:
            leaving = Leaving()

            async def serve() -> None:
                async with metrics_server(metrics_host, metrics_port, provider_registry(config.meter)) as url:
                    tell_url(url, as_json=as_json)
                    await join_swarm(config, lambda event: show(event, as_json=as_json), progress, leaving)

            run(
                serve(),
                ends_on_signal=True,
                ask=held.noting(leaving.ask),
            )
    if not as_json:
        err.print("left the swarm")
