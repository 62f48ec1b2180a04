"""`mesh relay`: a public node through which those behind a NAT are reached, and the swarm is joined."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.console import emit, err, out, run, set_up_logging
from mesh.cli.identities import claim_key, runtime_root
from mesh.cli.metrics import LOOPBACK, MetricsHost, MetricsPort, metrics_server, tell_url
from mesh.cli.options import AsJson, IdentityFile, LogLevel, Peers, listen_everywhere, read_size, split_peers

if TYPE_CHECKING:
    from mesh.node import NodeConfig

LOOK_SECONDS = 5.0
"""Between two looks at the load; it is told when it has changed."""


def relay(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port, open to the world.")] = 4001,
    host_maddrs: Annotated[
        list[str] | None,
        typer.Option(
            "--host-maddrs",
            help="Address to listen on, instead of --port; may be repeated.",
            show_default="/ip4/0.0.0.0/tcp/PORT",
        ),
    ] = None,
    announce_maddrs: Annotated[
        list[str] | None,
        typer.Option("--announce-maddrs", help="Address to tell others, where this machine does not know its own."),
    ] = None,
    peers: Peers = None,
    reservations: Annotated[
        int, typer.Option("--reservations", min=1, help="Nodes that may be reached through this one at a time.")
    ] = 128,
    per_host: Annotated[
        int, typer.Option("--reservations-per-host", min=1, help="As many of them from one IP address.")
    ] = 16,
    circuits: Annotated[int, typer.Option("--circuits", min=1, help="Connections passed on at a time.")] = 512,
    circuits_per_peer: Annotated[
        int, typer.Option("--circuits-per-peer", min=1, help="As many of them to or from one node.")
    ] = 16,
    circuit_minutes: Annotated[
        float, typer.Option("--circuit-minutes", min=0.1, help="A connection is cut after this long.")
    ] = 240.0,
    circuit_size: Annotated[
        str, typer.Option("--circuit-size", help="A connection is cut after this many bytes, each way.")
    ] = "64GiB",
    rate: Annotated[
        str | None,
        typer.Option("--rate", help="Bytes per second of one connection, each way.", show_default="no limit"),
    ] = None,
    identity: IdentityFile = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
) -> None:
    """Be a way into the swarm, and the relay of nodes behind a NAT, until Ctrl-C.

    Wants a machine with a public address; needs no GPU and no model. Without --peers it is the first of a new swarm.
    A connection that is cut by a limit is made anew by its nodes, and the sessions on it go on.
    """
    set_up_logging(log_level)
    size, speed = read_size(circuit_size), 0 if rate is None else read_size(rate)
    with claim_key(identity, "relay") as held:
        own = held.identity()
        from mesh.node import NodeConfig
        from mesh.transport.relay.places import RelayLimits

        config = NodeConfig(
            identity=own,
            host_maddrs=tuple(host_maddrs or listen_everywhere(port)),
            announce_maddrs=tuple(announce_maddrs or []),
            initial_peers=split_peers(peers),
            runtime_root=runtime_root(),
            direct_port=None,
            relay_limits=RelayLimits(
                reservations=reservations,
                reservations_per_host=per_host,
                circuits=circuits,
                circuits_per_peer=circuits_per_peer,
                circuit_seconds=round(circuit_minutes * 60),
                circuit_bytes=size,
                bytes_per_second=speed,
            ),
        )
        run(_serve(config, metrics_host, metrics_port, as_json), ends_on_signal=True)
    if not as_json:
        err.print("relay stopped")


async def _serve(config: NodeConfig, metrics_host: str, metrics_port: int | None, as_json: bool) -> None:
    from mesh.node import Node
    from mesh.transport.relay.metrics import relay_registry

    async with (
        Node(config) as node,
        metrics_server(metrics_host, metrics_port, relay_registry(node.relay)) as url,
        asyncio.TaskGroup() as tasks,
    ):
        tell_url(url, as_json=as_json)
        tasks.create_task(node.watch())
        if as_json:
            emit("relaying", peer=node.peer_id, maddrs=node.maddrs)
        else:
            out.print(f"relaying as [bold]{node.peer_id}[/]")
            if node.maddrs:
                out.print(f"others join with: [bold]--peers {node.maddrs[0]}[/]")
        told = 0, 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            places, passed = node.relay.places, node.relay.relayed_bytes
            if (len(places), places.circuits) != told:
                told = len(places), places.circuits
                if as_json:
                    emit("load", nodes=told[0], circuits=told[1], relayed_bytes=passed)
                else:
                    out.print(
                        f"{told[0]} nodes are reached through us, {told[1]} connections, {passed >> 20} MiB so far"
                    )
