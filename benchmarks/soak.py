"""A paid swarm for hours while what it depends on fails, one fault after the other, drawn from one number.

    python -m benchmarks.soak [--minutes 120] [--seed 1] [--replicas 3] [--gateways 2] [--json FILE] [--smoke]

Providers of two spans (`--replicas` of each), gateways, a developer's agents and an embedded chain, all real processes.
Developers ask all the time, for one of a few greedy answers that were taken undisturbed first; `--seed` decides which
fault comes when and to whom (they are printed as they come). A request may fail only at a gateway that itself was hit
less than `BACK_SECONDS` ago (with one replica also where a provider was): every other failure is a lost request. At the
end the epochs are settled, and what all accounts hold must be the supply to the wei; what gateways declared is printed
beside what answers cost (work for requests that failed, or that was done again, is declared too). Memory of each
process is a line through its samples.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.report import machine, print_report
from mesh.cli.processes import Child
from mesh.client.payer import Payer
from mesh.errors import MeshError
from tests.scenarios.paid import LOOPBACK, START_SECONDS, PaidSwarm, paid_swarm, request, sums

BACK_SECONDS: Final = 75.0
"""So long after a fault a request may fail: a record lives 30 s, and whoever comes back has to load and announce."""
SETTLE_SECONDS: Final = 20.0
LENGTHS: Final = (8, 24, 48)
CALM_SECONDS: Final = (5.0, 30.0)
"""Between two faults."""
FAULTS: Final = ("kill", "leave", "stop 3 s", "stop 40 s", "daemon", "daemon hangs", "descriptors", "chain hangs")
SMOKE_FAULTS: Final = ("stop 3 s", "daemon", "chain hangs")


@dataclass(slots=True)
class Soak:
    """What has been seen so far."""

    swarm: PaidSwarm
    model: Path
    rng: random.Random
    spans: dict[str, str]
    children: dict[str, Child] = field(default_factory=dict)
    expected: dict[int, str] = field(default_factory=dict)
    answered: int = 0
    excused: int = 0
    lost: list[str] = field(default_factory=list)
    differing: int = 0
    hit: dict[str, float] = field(default_factory=dict)
    """When a node was last hit, or came back from it; for ever while it is away."""
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    async def start(self, name: str) -> None:
        """A node by its name, under which it comes back."""
        if name in self.spans:
            self.children[name] = await self.swarm.provider(name, self.model, self.spans[name])
        else:
            self.children[name] = await self.swarm.gateway(name)

    async def ask(self, gateway: str, length: int) -> tuple[bool, str]:
        """Whether there is an answer, and its text; else what was said instead."""
        try:
            async with self.swarm.http(gateway) as http:
                answer = await http.post("/completions", json=request(self.model.name, length))
        except (httpx.HTTPError, OSError) as error:
            return False, f"{type(error).__name__} {error}"
        if answer.status_code != 200:
            return False, f"{answer.status_code} {answer.text[:200]}"
        self.swarm.charged += int(answer.json()["usage"]["cost"]["wei"])
        return True, str(answer.json()["choices"][0]["text"])

    def is_excused(self, gateway: str) -> bool:
        """A request may fail at this gateway now."""
        alone = sum(span == next(iter(self.spans.values())) for span in self.spans.values()) == 1
        names = {gateway, *self.spans} if alone else {gateway}
        return any(time.monotonic() - self.hit[name] < BACK_SECONDS for name in names & self.hit.keys())

    async def keep_asking(self, gateway: str, rng: random.Random, until: float) -> None:
        """One developer, who is paid for by an agent of his own."""
        while time.monotonic() < until:
            length = rng.choice(LENGTHS)
            answered, text = await self.ask(gateway, length)
            if not answered and self.is_excused(gateway):
                self.excused += 1
                await asyncio.sleep(0.5)
            elif not answered:
                self.lost.append(text)
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} lost at {gateway}: {text}\n")
                await asyncio.sleep(0.5)
            else:
                self.answered += 1
                self.differing += text != self.expected[length]

    async def keep_paying(self, gateway: str) -> None:
        """An agent that is started again when its gateway was away as it began, or came back at another port."""
        account, store = self.swarm.chain.accounts["developer"], self.swarm.folder / "developer-promises.sqlite"
        while True:
            with contextlib.suppress(MeshError):  # whatever ends it, the developer starts it again
                url, key = self.swarm.urls[gateway], self.swarm.keys[gateway]
                async with (
                    Payer(url, key, account, budget=10**20, store=store, beside=True) as agent,
                    asyncio.TaskGroup() as tasks,
                ):
                    ending = tasks.create_task(agent.finished())
                    while self.swarm.urls[gateway] == url and not ending.done():
                        await asyncio.wait({ending}, timeout=0.5)
                    ending.cancel()
            await asyncio.sleep(1.0)

    async def measure(self) -> None:
        """Memory of every node, in MiB, by minutes."""
        began = time.monotonic()
        while True:
            for name, child in self.children.items():
                with contextlib.suppress(OSError, IndexError):
                    pages = _pages(child.process.pid)
                    series = self.memory.setdefault(f"{name} {child.process.pid}", [])
                    series.append(((time.monotonic() - began) / 60, pages * resource.getpagesize() / 2**20))
            await asyncio.sleep(5.0)

    async def fault(self, kind: str, name: str) -> None:
        """One of `FAULTS`, and its end."""
        if kind != "chain hangs":
            self.hit[name] = float("inf")
        child = self.children[name]
        match kind:
            case "kill" | "leave":
                await (self.swarm.kill(child) if kind == "kill" else self.swarm.leave(child))
                await self.start(name)
            case "stop 3 s" | "stop 40 s":
                await self._stopped(_tree(child.process.pid), 3.0 if kind == "stop 3 s" else 40.0)
            case "daemon" | "daemon hangs":
                for pid in _tree(child.process.pid):
                    if _is_daemon(pid):
                        os.kill(pid, signal.SIGKILL if kind == "daemon" else signal.SIGSTOP)
            case "descriptors":
                before = resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, (16, before[1]))
                await asyncio.sleep(8.0)
                resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, before)
            case "chain hangs":
                chain = next(each for each in self.swarm.family.all if "chain" in each.name)
                await self._stopped([chain.process.pid], 10.0)
                return
        self.hit[name] = time.monotonic()

    @staticmethod
    async def _stopped(pids: list[int], seconds: float) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def _pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def _tree(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    return found


def _is_daemon(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/p2pd")
    return False


def slope(series: list[tuple[float, float]]) -> float:
    """Per cent an hour of what there was in the middle; 0 for what has not lived for ten minutes."""
    settled = [point for point in series if point[0] > series[0][0] + 5]
    if len(settled) < 2 or settled[-1][0] - settled[0][0] < 10:
        return 0.0
    line = statistics.linear_regression(*zip(*settled, strict=True))
    return round(100 * 60 * line.slope / statistics.median(value for _, value in settled), 2)


async def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it; the report."""
    rng = random.Random(options.seed)
    model = write_checkpoint(folder / "model", SIZES["smoke"])
    spans = {
        f"{letter}{number}": span for number in range(options.replicas) for letter, span in (("a", "0:2"), ("b", "2:4"))
    }
    gateways = [f"gate{number}" for number in range(options.gateways)]
    async with paid_swarm(folder / "run", model, [*spans, *gateways]) as swarm:
        soak = Soak(swarm, model, rng, spans)
        relay = await swarm.family.start("relay", "relay", "--json", "--host-maddrs", LOOPBACK)
        swarm.address = (await relay.wait_for("relaying", START_SECONDS))["maddrs"][0]
        for name in [*spans, *gateways]:
            await soak.start(name)
        async with asyncio.TaskGroup() as tasks:
            agents = [tasks.create_task(soak.keep_paying(gateway)) for gateway in gateways]
            for length in LENGTHS:
                while not (first := await soak.ask(gateways[0], length))[0]:  # noqa: ASYNC110 (of another process)
                    await asyncio.sleep(0.2)
                soak.expected[length] = first[1]
            measuring = tasks.create_task(soak.measure())
            until = time.monotonic() + 60 * options.minutes
            for gateway in gateways:
                tasks.create_task(soak.keep_asking(gateway, random.Random(rng.random()), until))
            happened = []
            while time.monotonic() < until:
                await asyncio.sleep(rng.uniform(*options.calm))
                kind, name = rng.choice(options.faults), rng.choice([*spans, *gateways])
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {kind}: {name}\n")
                happened.append([kind, name])
                await soak.fault(kind, name)
            await asyncio.sleep(0 if options.smoke else BACK_SECONDS)
            for task in (*agents, measuring):
                task.cancel()
        settled = await _settle(soak, options)
    return {
        "title": f"Soak, seed {options.seed}",
        "method": f"{len(spans)} providers, {len(gateways)} gateways, paid; faults one after the other",
        "minutes": options.minutes,
        "faults": happened,
        "answered": soak.answered,
        "failed_at_a_gateway_that_was_hit": soak.excused,
        "lost": soak.lost,
        "differing": soak.differing,
        "memory_percent_an_hour": {name: slope(series) for name, series in soak.memory.items()},
        "megabytes": {name: [round(series[0][1]), round(series[-1][1])] for name, series in soak.memory.items()},
        "wei": settled,
    }


async def _settle(soak: Soak, options: argparse.Namespace) -> dict[str, str]:
    """End the epochs; what gateways declared beside what answers cost, in wei. Raises where the sums do not hold."""
    chain = soak.swarm.chain
    if not options.smoke:
        for epochs in (1, 1, 3):  # checkpoints are posted, then proven, then what is left is claimed
            await chain.next_epoch(epochs)
            await asyncio.sleep(SETTLE_SECONDS)
    async with chain.client() as client:
        found = await sums(client, [chain.model_id])
    await chain.balances()  # raises unless the balances of all are the supply, to the wei
    return {"declared": str(found.fees), "charged": str(soak.swarm.charged), "claimed": str(found.claimed)}


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=3, help="providers of each of the two spans")
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="two providers, a few short faults: does it run?")
    options = parser.parse_args()
    options.faults, options.calm = FAULTS, CALM_SECONDS
    if options.smoke:
        options.replicas, options.gateways, options.minutes = 1, 1, 0.3
        options.faults, options.calm = SMOKE_FAULTS, (1.0, 3.0)
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="mesh-soak-") as folder:
        report = asyncio.run(run(options, Path(folder)))
    report["machine"] = facts
    worst = max(report["memory_percent_an_hour"].values(), default=0.0)
    excused, lost = report["failed_at_a_gateway_that_was_hit"], len(report["lost"])
    columns = ("answered", "failed at a gateway that was hit", "lost", "differing", "memory, % an hour", "faults")
    row = (report["answered"], excused, lost, report["differing"], f"{worst:g}", len(report["faults"]))
    print_report(report, columns, [[str(value) for value in row]], options.json)
    bad = lost or report["differing"] or not report["answered"]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
