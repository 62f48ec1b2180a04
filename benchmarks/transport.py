"""The transports side by side: 16 KiB echoes and 32 MiB one way over direct TLS, hivemind's stream, libp2p and memory.

    python -m benchmarks.transport [--rounds 7] [--echoes 300] [--json FILE] [--smoke]

Two processes on loopback, each with a Go daemon, a direct port and a libp2p port of its own; every round asks each path
in turn over a channel that stays open, so that a change of the machine's speed hits all alike. An echo is one frame
there and back, timed one by one (`echo` is a round's median, `echo p99` its 99th percentile); one way is 32 frames of
1 MiB until the receiver has answered that it has them all. CPU is that of both processes and their daemons, per echo.
`open` is a new channel, echo included, where the peers have met before. The in-memory transport has both ends in one
process and is what the frames themselves cost. Figures are medians over rounds, ratios medians of the ratios within a
round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import machine, paired_ratio, print_report, spread
from mesh.identity import Identity
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.direct.transport import DirectTransport
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.libp2p.transport import Libp2pTransport
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel, Transport
from mesh.wire.frame import Frame

PROTOCOL = "/mesh/benchmark/1"
ECHO_BYTES = 16 * 1024
BULK_BYTES = 32 * 1024 * 1024
FRAME_BYTES = 1024 * 1024
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
DEADLINE = 60.0
ECHO, BULK, DONE = b"echo", b"bulk", b"done"


@dataclass
class Measured:
    """One path and what was measured on it, a value per round."""

    name: str
    transport: Transport
    peer: str
    channel: Channel
    echo: list[float] = field(default_factory=list)
    echo_p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    opening: list[float] = field(default_factory=list)


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transport", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--echoes", type=int, default=300, help="per round and path")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="one short round: does it run?")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve(options.serve))
        return
    if options.smoke:
        options.rounds, options.echoes = 1, 20
    asyncio.run(_measure(options))


async def _answer(channel: Channel) -> None:
    received = 0
    while (frame := await channel.receive()) is not None:
        if frame.header == ECHO:
            await channel.send(frame)
        elif frame.header == BULK:
            received += len(frame.payload)
        else:
            await channel.send(Frame(DONE, b"%d" % received))
            received = 0


async def _node(
    stack: AsyncExitStack, peers: tuple[str, ...]
) -> tuple[Daemon, HivemindTransport, DirectTransport, Libp2pTransport]:
    daemon = await stack.enter_async_context(Daemon(DaemonConfig(Identity.generate(), initial_peers=peers)))
    hivemind = await stack.enter_async_context(HivemindTransport(daemon))
    direct = await stack.enter_async_context(DirectTransport(daemon.identity, hivemind))
    libp2p = await stack.enter_async_context(Libp2pTransport(daemon.identity, listen=LOOPBACK))
    return daemon, hivemind, direct, libp2p


async def _serve(peer: str) -> None:
    """The other process: serves until its standard input ends."""
    async with AsyncExitStack() as stack:
        _, hivemind, direct, libp2p = await _node(stack, (peer,))
        for transport in (hivemind, direct, libp2p):
            await transport.serve(PROTOCOL, _answer)
        sys.stdout.write(libp2p.maddrs[0] + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


async def _measure(options: argparse.Namespace) -> None:
    facts = machine("hivemind", "cryptography", "libp2p")
    async with AsyncExitStack() as stack:
        daemon, hivemind, direct, libp2p = await _node(stack, ())
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "benchmarks.transport", "--serve", daemon.visible_maddrs[0]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin is not None and child.stdout is not None
        stack.push_async_callback(child.wait)
        stack.callback(child.stdin.close)
        async with asyncio.timeout(DEADLINE):
            maddr = (await child.stdout.readline()).decode().strip()
        peer = maddr.rpartition("/")[2]
        libp2p.learn(peer, [maddr])
        network = MemoryNetwork()
        here, there = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))
        await stack.enter_async_context(here)
        await stack.enter_async_context(there)
        await there.serve(PROTOCOL, _answer)
        paths = [
            Measured(name, transport, to, await transport.open(to, PROTOCOL))
            for name, transport, to in (
                ("direct TLS 1.3", direct, peer),
                ("hivemind stream", hivemind, peer),
                ("libp2p, no daemon", libp2p, peer),
                ("memory", here, there.peer_id),
            )
        ]
        processes = [psutil.Process(), psutil.Process(child.pid)]
        processes += [
            daemon for process in tuple(processes) for daemon in process.children() if daemon.pid != child.pid
        ]
        for number in range(-1, options.rounds):  # the first warms up
            for path in paths:
                async with asyncio.timeout(DEADLINE):
                    await _round(path, options.echoes, processes, keep=number >= 0)
        for path in paths:
            await path.channel.aclose()
    _report(options, facts, paths)


async def _round(path: Measured, echoes: int, processes: list[psutil.Process], *, keep: bool) -> None:
    frame, channel = Frame(ECHO, bytes(ECHO_BYTES)), path.channel
    times = []
    cpu = _cpu(processes)
    for _ in range(echoes):
        began = time.perf_counter()
        await channel.send(frame)
        await channel.receive()
        times.append(time.perf_counter() - began)
    cpu = _cpu(processes) - cpu

    bulk = Frame(BULK, bytes(FRAME_BYTES))
    began = time.perf_counter()
    for _ in range(BULK_BYTES // FRAME_BYTES):
        await channel.send(bulk)
    await channel.send(Frame(DONE))
    answer = await channel.receive()
    took = time.perf_counter() - began
    if answer is None or bytes(answer.payload) != b"%d" % BULK_BYTES:
        raise RuntimeError(f"{path.name} lost bytes")

    began = time.perf_counter()
    fresh = await path.transport.open(path.peer, PROTOCOL)
    await fresh.send(frame)
    await fresh.receive()
    opening = time.perf_counter() - began
    await fresh.aclose()
    if keep:
        path.echo.append(statistics.median(times) * 1000)
        path.echo_p99.append(sorted(times)[int(len(times) * 0.99)] * 1000)
        path.cpu.append(cpu / echoes * 1000)
        path.throughput.append(BULK_BYTES / took / 2**20)
        path.opening.append(opening * 1000)


def _cpu(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        used = process.cpu_times()
        total += used.user + used.system
    return total


def _report(options: argparse.Namespace, facts: dict[str, Any], paths: list[Measured]) -> None:
    stream = paths[1]
    report = {
        "title": "transports: 16 KiB echo and 32 MiB one way",
        "method": f"{options.rounds} rounds in turn, {options.echoes} echoes each; two processes on loopback",
        "machine": facts,
        "paths": {
            path.name: {
                "echo_ms": spread(path.echo),
                "echo_p99_ms": spread(path.echo_p99),
                "cpu_ms_per_echo": spread(path.cpu),
                "mib_per_second": spread(path.throughput),
                "open_ms": spread(path.opening),
                "echo_to_hivemind": paired_ratio(path.echo, stream.echo),
                "throughput_to_hivemind": paired_ratio(path.throughput, stream.throughput),
            }
            for path in paths
        },
    }
    rows = [
        [
            path.name,
            f"{statistics.median(path.echo):.3f} ms",
            f"{statistics.median(path.echo_p99):.3f} ms",
            f"{statistics.median(path.cpu):.2f} ms",
            f"{statistics.median(path.throughput):,.0f} MiB/s",
            f"{statistics.median(path.opening):.1f} ms",
        ]
        for path in paths
    ]
    print_report(report, ["path", "echo", "echo p99", "CPU per echo", "one way", "open"], rows, options.json)


if __name__ == "__main__":
    main()
