"""`mesh doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.console import EXIT_ERROR, err, out, print_json, run, safe, set_up_logging, settled_on
from mesh.cli.doctor.checks import GIB, Finding, findings
from mesh.cli.options import AsJson, LogLevel, Peers, Relays, choose_relays, listen_everywhere, split_peers
from mesh.discovery.clocks import spoken

if TYPE_CHECKING:
    from mesh.cli.doctor.readings import Readings


def doctor(
    peers: Peers = None,
    rpc: Annotated[
        str | None, typer.Option("--rpc", envvar="MESH_RPC", help="JSON-RPC address of the chain, to look at it too.")
    ] = None,
    deployment: Annotated[
        Path | None,
        typer.Option("--deployment", envvar="MESH_DEPLOYMENT", help="Where the contracts are, with --rpc."),
    ] = None,
    host_maddrs: Annotated[
        list[str] | None,
        typer.Option("--host-maddrs", help="Where a node would listen, with --peers.", show_default="as mesh join"),
    ] = None,
    announce_maddrs: Annotated[
        list[str] | None,
        typer.Option("--announce-maddrs", help="Where it would say that it can be dialled, with --peers."),
    ] = None,
    relay: Relays = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for downloads.", show_default="huggingface_hub's")
    ] = None,
    as_json: AsJson = False,
    log_level: LogLevel = "error",
) -> None:
    """Look whether this machine is fit to work: devices, memory, disks, compiler, versions, clock, reach, chain.

    With --peers those nodes are asked for the time, and to dial this machine: the provider that runs here, or else a
    node with these addresses that is there for a moment. With --rpc the chain's node is looked at too. Each thing
    that is wrong is said with what to do, and the exit code is then 1.
    """
    set_up_logging(log_level)
    named = split_peers(peers)
    listen, announced = tuple(host_maddrs or listen_everywhere(0)), tuple(announce_maddrs or ())
    relays = choose_relays(relay, named, listen, announced) if named else ()
    with err.status("looking at this machine …") if err.is_terminal and not as_json else nullcontext():
        readings = run(_read(named, listen, announced, relays, rpc, deployment, cache))
    if readings is None:
        raise typer.Exit(EXIT_ERROR)
    wrong = settled_on(lambda: findings(readings))
    if as_json:
        print_json({"readings": asdict_plain(readings), "findings": [asdict(each) for each in wrong]})
    else:
        _show(readings, wrong)
    if wrong:
        raise typer.Exit(EXIT_ERROR)


async def _read(
    peers: tuple[str, ...],
    listen: tuple[str, ...],
    announced: tuple[str, ...],
    relays: tuple[str, ...],
    rpc: str | None,
    deployment: Path | None,
    cache: Path | None,
) -> Readings:
    from mesh.cli.chain_session import default_deployment
    from mesh.cli.doctor.chain import read_chain
    from mesh.cli.doctor.machine import read_machine
    from mesh.cli.doctor.network import read_network
    from mesh.cli.doctor.readings import Readings

    # One after the other: a node that joins, and torch as it loads, would make each other look slow.
    network = await read_network(peers, listen, announced, relays) if peers else None
    chain = await read_chain(rpc, deployment or default_deployment()) if rpc is not None else None
    machine = await asyncio.to_thread(read_machine, cache)
    return Readings(machine, network, chain)


def asdict_plain(readings: Readings) -> dict[str, Any]:
    """For scripts: dataclasses and messages as JSON values."""
    import msgspec

    built: dict[str, Any] = msgspec.to_builtins(readings)
    return built


def _show(readings: Readings, wrong: list[Finding]) -> None:
    for name, value in _facts(readings):
        out.print(f"{name:<10} {safe(value)}")
    for each in wrong:
        out.print(f"[bold yellow]{each.name}:[/] {safe(each.what)}.\n  {safe(each.do)}.")
    if wrong:
        out.print(f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong")
    else:
        out.print("[green]nothing is wrong[/]")


def _facts(readings: Readings) -> list[tuple[str, str]]:
    machine = readings.machine
    rows = [("versions", ", ".join(f"{name} {value}" for name, value in machine.versions.items()))]
    for device in machine.devices:
        speed = f", reads {device.bandwidth / 1e9:,.0f} GB/s" if device.bandwidth else ""
        rows.append((device.name, f"{device.what}, {device.free / GIB:,.1f} GiB free{speed}"))
    memory = machine.memory
    swap = f"{memory.swap_used / GIB:,.1f} of {memory.swap_total / GIB:,.1f} GiB swap used"
    rows.append(("memory", f"{memory.available / GIB:,.1f} of {memory.total / GIB:,.1f} GiB free, {swap}"))
    for disk in machine.disks:
        free = "unknown room" if disk.free is None else f"{disk.free / GIB:,.1f} GiB free"
        rows.append((disk.purpose, f"{disk.folder}, {free}"))
    rows.append(("compiler", machine.compiler or "none"))
    if readings.network is not None:
        rows += _network_facts(readings)
    if (chain := readings.chain) is not None and chain.problem is None:
        rows.append(("chain", f"{chain.url}, id {chain.chain_id}, block {chain.head:,}, {chain.head_age:,.0f} s old"))
    return rows


def _network_facts(readings: Readings) -> list[tuple[str, str]]:
    network = readings.network
    if network is None or network.problem is not None:
        return []
    clocks = network.clocks.values()
    furthest = max(clocks, key=abs, default=None)
    rows = [
        ("clock", "nobody told the time" if furthest is None else f"the furthest neighbour's is {spoken(furthest)}")
    ]
    if furthest is not None:
        rows[0] = ("clock", f"{rows[0][1]} ours, of {len(clocks)} asked")
    opened = {
        each.maddr.partition("/p2p/")[0]
        for answer in network.answers.values()
        for each in answer.knocked
        if each.outcome == "open"
    }
    if opened:
        rows.append(("reach", f"others dial {', '.join(sorted(opened))}"))
    elif network.relays:
        rows.append(("reach", f"through {len(network.relays)} relays"))
    elif not network.answers:
        rows.append(("reach", "nobody could be asked to dial this machine"))
    else:
        rows.append(("reach", "nobody who was asked reached this machine"))
    return rows
