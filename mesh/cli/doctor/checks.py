"""What is wrong, and what to do about it: functions of the readings, with no machine behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from mesh.cli.doctor.readings import Cards, ChainReading, Disk, Machine, Memory, Network, Readings
from mesh.discovery.clocks import ClockWatch
from mesh.wire.multiaddr import is_relayed

GIB: Final = 1 << 30
LEAST_FREE: Final = {"state": GIB // 4, "models": 2 * GIB}
"""Bytes below which a disk counts as full: journals of a week; the span of a small model."""
SWAP_USED: Final = 1 / 8
"""Of the machine's memory, in swap: then some of what a stage reads for each token may be there."""
SWAPPED_IN: Final = 4 << 20
"""Bytes a second."""
LEAST_MEMORY: Final = GIB
STALE_HEAD: Final = 180.0
"""Seconds without a block, beyond which a chain's node is behind."""
STALE_BLOCKS: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: its name for scripts, what it is, and what to do."""

    name: str
    what: str
    do: str


def findings(readings: Readings) -> list[Finding]:
    """All that is wrong; nothing on a healthy machine."""
    found = list(_machine(readings.machine))
    if readings.network is not None:
        found += _network(readings.network, readings.machine.versions["inference-mesh"])
    if readings.chain is not None:
        found += _chain(readings.chain)
    return found


def _machine(machine: Machine) -> Iterator[Finding]:
    for disk in machine.disks:
        yield from _disk(disk)
    yield from _memory(machine.memory)
    yield from _cards(machine.cards)
    if machine.compiler is None:
        yield Finding(
            "no_compiler",
            "there is no C++ compiler, so blocks on this CPU run on torch, at about half the speed",
            "install one (Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select "
            "--install), or name it in CXX",
        )


def _disk(disk: Disk) -> Iterator[Finding]:
    moved = {"state": "XDG_DATA_HOME", "models": "HF_HOME"}[disk.purpose]
    todo = f"make room there, or name a folder on another disk in {moved}"
    if disk.problem is not None:
        yield Finding("full_disk", f"nothing can be written to {disk.folder} ({disk.purpose}): {disk.problem}", todo)
    elif disk.free is not None and disk.free < LEAST_FREE[disk.purpose]:
        yield Finding(
            "full_disk", f"{disk.folder} ({disk.purpose}) has {disk.free / GIB:.2f} GiB left: too little", todo
        )


def _memory(memory: Memory) -> Iterator[Finding]:
    if memory.swap_used > SWAP_USED * memory.total or memory.swapped_in > SWAPPED_IN:
        yield Finding(
            "swap",
            f"{memory.swap_used / GIB:.1f} GiB of memory are in swap ({memory.swapped_in / 1e6:.1f} MB/s come back "
            "now): a stage whose weights are swapped out is a hundred times slower",
            "end what else uses memory, or serve less: --max-blocks, --kv-cache, --quantize int4",
        )
    if memory.available < LEAST_MEMORY:
        yield Finding(
            "no_memory",
            f"{memory.available / GIB:.2f} GiB of memory are free: too little for a stage",
            "end what else uses memory",
        )


def _cards(cards: Cards) -> Iterator[Finding]:
    if not cards.found or cards.usable:
        return
    vendor = cards.found[0]
    if vendor not in cards.driver:
        yield Finding(
            "no_gpu_driver",
            f"an {vendor} GPU is on the bus, and no driver for it is loaded: it is not used",
            "install its driver and start the machine again"
            + (" (nvidia-smi must list the GPU)" if vendor == "NVIDIA" else " (rocminfo must list the GPU)"),
        )
    elif cards.built_for is None:
        yield Finding(
            "torch_without_gpu",
            f"an {vendor} GPU is here, but this torch is built for CPUs alone: the GPU is not used",
            "install the torch for it: https://pytorch.org/get-started/locally/",
        )
    else:
        yield Finding(
            "gpu_out_of_reach",
            f"an {vendor} GPU is here with driver {cards.driver[vendor]}, but torch ({cards.built_for}) sees none",
            "in a container: start it with the GPU (docker run --gpus all); else the driver is too old for this "
            "torch, or CUDA_VISIBLE_DEVICES hides the GPU",
        )


def _network(network: Network, version: str) -> Iterator[Finding]:
    if network.problem is not None and not network.clocks:
        yield Finding("no_peer", f"no node of the swarm was reached: {network.problem}", "look at --peers, and the way")
    yield from _clock(network)
    yield from _reach(network)
    newer = sorted((_release(each), each) for each in network.versions.values() if _release(each) > _release(version))
    if 2 * len(newer) > len(network.versions):
        yield Finding(
            "old_version",
            f"this is release {version}; {len(newer)} of {len(network.versions)} providers run a newer one "
            f"(up to {newer[-1][1]})",
            "pip install --upgrade inference-mesh, and join again",
        )


def _clock(network: Network) -> Iterator[Finding]:
    watch = ClockWatch()
    for peer, ahead in network.clocks.items():
        watch.note(peer, ahead, 0.0)
    problem = watch.problem(0.0)
    if problem is None and network.problem is not None and network.clocks:
        problem = network.problem
    if problem is not None:
        yield Finding("wrong_clock", problem, "set the clock by NTP (timedatectl set-ntp true)")


def _reach(network: Network) -> Iterator[Finding]:
    """Whether somebody who was asked could dial us. Nodes that see no address of ours tell nothing."""
    straight = [maddr for maddr in network.announced if not is_relayed(maddr)]
    heard: dict[str, set[str]] = {maddr: set() for maddr in straight}
    seen: dict[str, None] = {}
    for answer in network.answers.values():
        seen |= dict.fromkeys(answer.seen)
        for each in answer.knocked:
            if each.maddr in heard:
                heard[each.maddr].add(each.outcome)
    is_open = any("open" in outcomes for outcomes in heard.values())
    for maddr, outcomes in heard.items():
        if outcomes & {"closed", "other", "silent"} and "open" not in outcomes:
            why = {"closed": "it is refused", "silent": "nothing comes back", "other": "something else answers there"}
            said = ", ".join(why[each] for each in ("closed", "silent", "other") if each in outcomes)
            if network.relays or (is_open and outcomes == {"silent"}):
                continue
            yield Finding(
                "closed_port",
                f"nobody can dial {_place(maddr)}, which this node announces: {said}",
                "open the port in the firewall and forward it at the router (docs/operations.md says which), or be "
                "reached through a relay: --relay",
            )
    outside = [ip for ip in seen if not ip_address(ip).is_loopback]
    tried = {"elsewhere"} == set().union(*heard.values()) if heard else not straight
    if network.answers and outside and tried and not network.relays:
        listed = ", ".join(map(_place, straight)) or "no address at all"
        yield Finding(
            "unroutable_address",
            f"this node announces {listed}, and others see it at {', '.join(outside)}: they cannot dial it",
            f"forward a port and announce it (--announce-maddrs /ip{ip_address(outside[0]).version}/{outside[0]}"
            "/tcp/PORT), or be reached through a relay: --relay",
        )


def _place(maddr: str) -> str:
    return maddr.partition("/p2p/")[0]


def _release(version: str) -> tuple[int, ...]:
    """`1.2.3` as numbers; what is none counts as the oldest."""
    parts = version.partition("+")[0].split(".")[:4]
    return (
        tuple(int(part) for part in parts) if all(p.isascii() and p.isdecimal() and len(p) < 6 for p in parts) else ()
    )


def _chain(chain: ChainReading) -> Iterator[Finding]:
    if chain.no_deployment is not None:
        yield Finding("no_deployment", chain.no_deployment, "name the file with --deployment")
    if chain.problem is not None:
        yield Finding("no_chain", f"{chain.url}: {chain.problem}", "look at --rpc, and whether the node there runs")
        return
    if chain.expected_id is not None and chain.chain_id != chain.expected_id:
        yield Finding(
            "wrong_chain",
            f"{chain.url} is chain {chain.chain_id}, and the contracts are on chain {chain.expected_id}",
            "name a node of that chain with --rpc, or the contracts' file with --deployment",
        )
    elif chain.has_contracts is False:
        yield Finding(
            "wrong_chain",
            f"{chain.url} has the id {chain.chain_id}, but not the block that the deployment file names: it is "
            "another chain, or was started anew",
            "name the deployment file that belongs to it with --deployment",
        )
    if (chain.behind or 0) > STALE_BLOCKS:
        behind = f"it has {chain.behind:,} blocks still to fetch"
    elif chain.head_age > STALE_HEAD and not chain.on_demand:
        behind = f"its last block, {chain.head:,}, is {chain.head_age:,.0f} s old"
    else:
        return
    yield Finding(
        "chain_behind",
        f"the chain's node at {chain.url} is behind: {behind}",
        "wait until it has caught up, or name another with --rpc: work of an epoch that is settled late is lost",
    )
