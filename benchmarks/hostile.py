"""Twenty honest sessions beside a thousand hostile connections, and the same sessions undisturbed.

    python -m benchmarks.hostile [--rounds 3] [--sessions 20] [--json FILE] [--smoke]

Three providers, real processes on loopback, with little memory for caches. In every round the same sessions run twice,
all at once: alone, and while other processes (see `benchmarks.attackers`) hold and renew about a thousand connections:
silent, a byte a second, garbage, oversized frames, large frames that never end, floods of requests, sessions that take
the cache and do not use it, strays on the ring, wrong prompts, garbage introductions, invented records in the DHT, and
plain TCP connections to both ports that never finish a handshake. Quiet and attacked alternate; the ratio is the median
of the rounds' ratios. Memory is the providers' resident size with their daemons'.

Here the attackers share the processors with the swarm, so they run at a lower priority and in a session of their own
(Linux shares processors out by session); how much of the processors they and the providers used is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.nursery import Forked, Nursery
from benchmarks.report import machine, print_report
from mesh.client.client import Client
from mesh.client.types import GenerateRequest
from mesh.errors import MeshError
from shards.engine.sampling_params import SamplingParams

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
NAME = "target"
STAGES = ("0:2", "2:3", "3:4")
CACHE = "16MiB"
ANSWER_SECONDS = 240.0
SETTLE_SECONDS = 3.0
MOST_GROWTH_MB = 800.0
"""What a provider and its daemon may take more while they are attacked: unfinished frames of both paths (512 MiB at
most), channels, p2pd."""


@dataclass
class Half:
    """The sessions of half a round."""

    gaps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Swarm:
    """The providers and what they take of memory."""

    def __init__(self, nursery: Nursery, checkpoint: Path) -> None:
        self._nursery = nursery
        self._checkpoint = checkpoint
        self.providers: list[dict[str, Any]] = []
        self._forked: list[Forked] = []

    async def start(self) -> None:
        for span in STAGES:
            direct = _free_port()
            peers = ["--peers", self.providers[0]["maddr"]] if self.providers else []
            options = ["--name", NAME, "--blocks", span, "--host-maddrs", LOOPBACK, "--threads", "1", "--json"]
            options += ["--kv-cache", CACHE, "--direct-port", str(direct), "--log-level", "error"]
            forked = await self._nursery.start("join", "--model", str(self._checkpoint), *options, *peers)
            joined = await forked.event("joined")
            self.providers.append(
                {"peer": joined["peer"], "maddr": joined["maddrs"][0], "direct": direct, "span": span}
            )
            self._forked.append(forked)
        for forked in self._forked:
            await forked.event("serving")

    @property
    def running(self) -> bool:
        return all(forked.running for forked in self._forked)

    def memory(self) -> list[float]:
        """Resident megabytes of each provider with its daemon."""
        return [sum(_resident(pid) for pid in (forked.pid, *_children(forked.pid))) for forked in self._forked]

    def cpu(self) -> float:
        """Seconds of processor time that the providers and their daemons have used."""
        return sum(_cpu(pid) for forked in self._forked for pid in (forked.pid, *_children(forked.pid)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def _cpu(pid: int) -> float:
    try:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> Iterator[int]:
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
    except OSError:
        return


def requests(sessions: int, new: int, seed: int, vocab: int) -> list[GenerateRequest]:
    """Even ones are greedy, odd ones have temperature and a seed."""
    rng = random.Random(seed)
    found = []
    for index in range(sessions):
        prompt = tuple(rng.randrange(vocab) for _ in range(rng.randint(4, 48)))
        params = SamplingParams(temperature=0.8, seed=rng.randrange(1 << 32)) if index % 2 else SamplingParams()
        found.append(GenerateRequest(NAME, prompt, new, params, ignore_eos=True))
    return found


async def run_sessions(client: Client, asked: list[GenerateRequest]) -> Half:
    """All at once."""
    half = Half(tokens=[[] for _ in asked])

    async def one(index: int, request: GenerateRequest) -> None:
        began = last = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_SECONDS), client.backend.generate(request) as generation:
                async for delta in generation:
                    now = time.perf_counter()
                    if half.tokens[index]:
                        half.gaps.append(now - last)
                    last = now
                    half.tokens[index] += delta.tokens
        except (MeshError, TimeoutError) as error:
            half.errors.append(f"{type(error).__name__}: {error}")
        half.seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(one(index, request) for index, request in enumerate(asked)))
    return half


@asynccontextmanager
async def attacked(targets: Path, done: dict[str, Any]) -> AsyncIterator[None]:
    """While inside, the attackers are at work; afterwards `done` says what they did."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.attackers", str(targets)),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    stdout = process.stdout
    if stdout is None:
        raise RuntimeError("the attackers have no output")
    try:
        async with asyncio.timeout(180):
            done["ready"] = json.loads(await stdout.readline())
        began = time.monotonic()
        yield
        done["seconds"] = round(time.monotonic() - began, 1)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            done.update(json.loads(await stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def watch(swarm: Swarm, peak: list[float]) -> None:
    """Keep the most memory of each provider in `peak`."""
    while True:
        for at, now in enumerate(swarm.memory()):
            peak[at] = max(peak[at], now)
        await asyncio.sleep(0.25)


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else sum(values)


async def measure(rounds: int, sessions: int, new: int, scale: float, identities: int, folder: Path) -> dict[str, Any]:
    """Run it all; the report."""
    size = SIZES["smoke"]
    checkpoint = await asyncio.to_thread(write_checkpoint, folder / "model", size)
    asked = requests(sessions, new, 1, size.vocab)
    rows: list[dict[str, Any]] = []
    async with Nursery(folder) as nursery:
        swarm = Swarm(nursery, checkpoint)
        await swarm.start()
        address = [provider["maddr"] for provider in swarm.providers]
        async with Client(address, runtime_root=folder / "run") as client:
            (model,) = [each for each in await client.models() if each.name == NAME]
            targets = folder / "targets.json"
            targets.write_text(json.dumps({
                "providers": swarm.providers, "digest": model.digest, "context": size.context, "hidden": size.hidden,
                "identities": identities, "scale": scale, "folder": str(folder),
            }))  # fmt: skip
            await run_sessions(client, asked)  # warm
            for round_ in range(rounds):
                before = swarm.memory()
                began = swarm.cpu()
                quiet = await run_sessions(client, asked)
                used = [swarm.cpu() - began]
                done: dict[str, Any] = {}
                peak = list(before)
                watching = asyncio.create_task(watch(swarm, peak))
                async with attacked(targets, done):
                    began = swarm.cpu()
                    stormy = await run_sessions(client, asked)
                    used.append(swarm.cpu() - began)
                watching.cancel()
                await asyncio.sleep(SETTLE_SECONDS)
                row = _row(quiet, stormy, before, peak, swarm.memory(), done)
                row["providers_cpu_s"] = [round(each, 1) for each in used]
                rows.append(row)
                logging.info("round %d: %s", round_ + 1, json.dumps(row))
        running = swarm.running
    return report(rows, running, sessions, new, identities)


def _row(
    quiet: Half, stormy: Half, before: list[float], peak: list[float], after: list[float], done: dict[str, Any]
) -> dict[str, Any]:
    return {
        "quiet_p95_ms": round(p95(quiet.gaps) * 1000, 2),
        "attacked_p95_ms": round(p95(stormy.gaps) * 1000, 2),
        "ratio": round(p95(stormy.gaps) / p95(quiet.gaps), 2),
        "quiet_session_p95_s": round(p95(quiet.seconds), 2),
        "attacked_session_p95_s": round(p95(stormy.seconds), 2),
        "session_ratio": round(p95(stormy.seconds) / p95(quiet.seconds), 2),
        "errors": quiet.errors + stormy.errors,
        "differing": sum(a != b for a, b in zip(quiet.tokens, stormy.tokens, strict=True)),
        "memory_before_mb": [round(each) for each in before],
        "memory_peak_mb": [round(each) for each in peak],
        "memory_after_mb": [round(each) for each in after],
        "attack": done,
    }


def report(rows: list[dict[str, Any]], running: bool, sessions: int, new: int, identities: int) -> dict[str, Any]:
    """What is printed."""
    growth = max(p - b for row in rows for p, b in zip(row["memory_peak_mb"], row["memory_before_mb"], strict=True))
    kept = max(a - b for b, a in zip(rows[0]["memory_before_mb"], rows[-1]["memory_after_mb"], strict=True))
    return {
        "benchmark": "hostile",
        "title": f"{sessions} sessions of {new} tokens beside hostile connections of {identities} peers and of none",
        "method": "p95 of the wait between two tokens, attacked over quiet, median of the rounds' ratios.",
        "machine": machine(),
        "connections": [row["attack"].get("most_live") for row in rows],
        "ratio": statistics.median(row["ratio"] for row in rows),
        "session_ratio": statistics.median(row["session_ratio"] for row in rows),
        "lost": sum(len(row["errors"]) for row in rows),
        "differing": sum(row["differing"] for row in rows),
        "providers_alive": running,
        "memory_growth_mb": growth,
        "memory_kept_mb": kept,
        "rounds": rows,
    }


def main() -> None:
    """Parse options and run; the exit code is 1 when a session was lost, a token differs or memory is out of bounds."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--new", type=int, default=256, help="tokens to generate")
    parser.add_argument("--identities", type=int, default=5, help="hostile peers, each with a daemon of its own")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of connections")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="few of everything: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.sessions, options.new, options.identities, options.scale = 1, 4, 24, 1, 0.4
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="ho-") as folder:
        found = asyncio.run(
            measure(
                options.rounds, options.sessions, options.new, options.scale, options.identities, Path(folder)
            )
        )  # fmt: skip
    columns = (
        "round",
        "quiet p95 ms",
        "attacked",
        "ratio",
        "session ratio",
        "connections",
        "memory MB",
        "peak",
        "providers' CPU s",
        "attackers'",
    )
    rows = [
        (
            str(number),
            *(str(row[key]) for key in ("quiet_p95_ms", "attacked_p95_ms", "ratio", "session_ratio")),
            str(row["attack"].get("most_live")),
            str(max(row["memory_before_mb"])),
            str(max(row["memory_peak_mb"])),
            " → ".join(map(str, row["providers_cpu_s"])),
            str(row["attack"].get("cpu_seconds")),
        )
        for number, row in enumerate(found["rounds"], 1)
    ]
    print_report(found, columns, rows, options.json)
    good = not found["lost"] and not found["differing"] and found["providers_alive"]
    sys.exit(0 if good and found["memory_growth_mb"] < MOST_GROWTH_MB else 1)


if __name__ == "__main__":
    main()
