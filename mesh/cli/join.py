"""`mesh join`: serve blocks of a model as a provider."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli import paying
from mesh.cli.console import ProgressBars, emit, err, out, run, set_up_logging, settled_on
from mesh.cli.identities import claim_identity, runtime_root
from mesh.cli.options import (
    AsJson,
    DirectPort,
    IdentityFile,
    LogLevel,
    Peers,
    Relays,
    choose_relays,
    read_blocks,
    read_size,
    split_peers,
)
from mesh.cli.paying import show_settlement
from mesh.cli.tables import short


def join(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A checkpoint folder, a Hugging Face name, or tiny-python, which ships."),
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
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps: where the blocks run.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")
    ] = "auto",
    host_maddrs: Annotated[
        list[str] | None,
        typer.Option(
            "--host-maddrs",
            help="Address to listen on; may be repeated. Use /ip4/127.0.0.1/tcp/0 to stay on this machine.",
            show_default="/ip4/0.0.0.0/tcp/0",
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
    kv_cache: Annotated[str, typer.Option("--kv-cache", help="Memory for sessions' caches.")] = "1GiB",
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
    chain: paying.Chain = None,
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
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Join a swarm (or start one) and serve blocks of a model until Ctrl-C.

    At Ctrl-C (or SIGTERM) it takes no new session, lets those that run end or hands them over, withdraws its record and
    goes; at the second one it goes at once.

    Without --peers this node starts a new swarm and prints the address through which others join. With
    `--blocks auto` it takes the blocks that are needed most: those that nobody serves, else the slowest part. Later it
    moves when others leave a gap that it has memory for, or when it would help clearly more elsewhere.

    With --wallet the work is paid for: the node registers as a provider of the model, stakes what the model asks for
    (after asking you once), and works only for staked gateways that sign vouchers for what was done.
    """
    set_up_logging(log_level)
    span = read_blocks(blocks)
    listening = tuple(host_maddrs or ["/ip4/0.0.0.0/tcp/0"])
    announced, joined = tuple(announce_maddrs or []), split_peers(peers)
    relays = choose_relays(relay, joined, listening, announced)
    kv_bytes = read_size(kv_cache)
    payment = settled_on(
        lambda: paying.read_payment(
            chain=chain,
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
    with claim_identity(identity) as own:
        # torch and hivemind take seconds to import: only now, so that --help and bad options answer at once.
        from mesh.node import NodeConfig
        from mesh.provider.events import (
            Chose,
            Drained,
            Draining,
            Joined,
            JoinEvent,
            Reached,
            Serving,
            Settlement,
            Staked,
        )
        from mesh.provider.join import REBALANCE_SECONDS, JoinConfig, Leaving
        from mesh.provider.join import join as join_swarm
        from shards.devices import choose_device

        def tell(event: JoinEvent) -> None:
            if isinstance(event, Settlement):
                show_settlement(event.event, as_json=as_json)
                return
            if as_json:
                values = {k: str(v) if k == "span" else v for k, v in asdict_shallow(event).items()}
                emit(type(event).__name__.lower(), **values)
                return
            match event:
                case Joined(peer=peer, maddrs=maddrs):
                    out.print(f"joined as [bold]{peer}[/]")
                    if maddrs:
                        out.print(f"others join with: [bold]--peers {maddrs[0]}[/]")
                case Reached(relays=used):
                    out.print(reach(used))
                case Chose(model=served, span=chosen, n_blocks=total):
                    out.print(f"loading blocks [bold]{chosen}[/] of {total} of {served}")
                case Staked(what=what, tx=tx):
                    out.print(f"{what} [dim]({tx})[/]")
                case Serving(span=served_span, tokens_per_second=speed, dtype=used, device=where):
                    out.print(
                        f"serving blocks [bold]{served_span}[/] in {used} on {where}: "
                        f"{speed:,.0f} tokens/s. Ctrl-C leaves the swarm."
                    )
                case Draining(sessions=sessions) if sessions:
                    out.print(f"leaving: {sessions} sessions run still. Ctrl-C again goes at once.")
                case Drained(handed_over=handed_over) if handed_over:
                    out.print(f"{handed_over} sessions did not end in time: others take them over")

        config = JoinConfig(
            model=model,
            node=NodeConfig(
                identity=own,
                host_maddrs=listening,
                announce_maddrs=announced,
                initial_peers=joined,
                relays=relays,
                runtime_root=runtime_root(),
                direct_port=None if direct_port < 0 else direct_port,
            ),
            name=name,
            blocks=span,
            max_blocks=max_blocks,
            rebalance_seconds=REBALANCE_SECONDS if rebalance else None,
            device=choose_device(device),
            dtype=dtype,
            cache=cache,
            kv_bytes=kv_bytes,
            threads=threads,
            drain_seconds=drain_seconds,
            payment=payment,
            approve=paying.asker(yes),
        )
        with ProgressBars(enabled=not as_json) as progress:
            leaving = Leaving()
            run(join_swarm(config, tell, progress, leaving), ends_on_signal=True, ask=leaving.ask)
    if not as_json:
        err.print("left the swarm")


def reach(relays: tuple[str, ...]) -> str:
    """What an operator behind a NAT wants to know, or has to do."""
    if relays:
        return f"behind a NAT, reached through relay {', '.join(map(short, relays))}"
    return (
        "[yellow]behind a NAT, and no relay takes us: nobody can reach this node.[/] Name one with --relay "
        "(`mesh relay` on a public machine starts one), or forward a port here and name it with --announce-maddrs."
    )


def asdict_shallow(event: object) -> dict[str, object]:
    """A dataclass' fields by name, not descending into them."""
    return {name: getattr(event, name) for name in asdict(event)}  # type: ignore[call-overload]
