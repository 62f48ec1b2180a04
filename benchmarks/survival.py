"""Sessions that each lose a provider to `kill -9` at a random token, beside the same sessions undisturbed.

    python -m benchmarks.survival [--sessions 200] [--json FILE] [--smoke]
    python -m benchmarks.survival --loss 0.05 --delay-ms 100 --jitter-ms 50 --partition-seconds 20   (as root, on Linux)

Three stages, two providers each, all real processes on loopback. First every session runs undisturbed. Then each runs
again: one stage is drawn for it, and when a drawn number of tokens has come, the provider that serves this stage on its
route gets SIGKILL. The provider is started again at once, and no other session may kill at that stage before both its
providers serve again; up to three sessions, at different stages, run and kill at the same time, so that sessions also
meet kills that were meant for others. Half of them are greedy, half have temperature 0.8 and a seed; float32.

With conditions for the lines, every provider and the client get a network namespace of their own, and all packets
between them go over emulated lines (`tests/network`). The undisturbed run has perfect lines, what follows the bad ones.
With `--partition-seconds` nobody is killed: the provider is cut off instead, for that long, from everybody (half of
the sessions), from the client only, or from the next hop only (a quarter each). The session that is hit does not wait
for the end of that; the stage has its next cut after it.

Lost: sessions that did not end with all their tokens. Differing: tokens that are not those of the undisturbed run.
Recovery gap: the longest wait between two tokens from the kill (or cut) on. Switched: sessions whose route changed
after it (in the others the provider had done its part before, or was back before anybody gave it up).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.nursery import Forked, Nursery
from benchmarks.report import machine, print_report
from mesh.client.client import Client
from mesh.client.types import GenerateRequest
from mesh.errors import MeshError
from mesh.swarm.route import Hop
from shards.engine.sampling_params import SamplingParams
from tests.network.conditions import PERFECT, Conditions
from tests.network.internet import Internet, open_internet
from tests.network.namespaces import Namespaces

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
NAME = "survivor"
STAGES = ("0:2", "2:3", "3:4")
REPLICAS = 2
ANSWER_SECONDS = 180.0
CLIENT = "client"

Harm = Literal["kill", "cut off", "cut off from client", "cut off from next hop"]
CUTS: tuple[Harm, ...] = ("cut off", "cut off", "cut off from client", "cut off from next hop")


@dataclass(frozen=True, slots=True)
class Lines:
    """What is between the processes: nothing but loopback where there is no `internet`."""

    internet: Internet | None = None
    conditions: Conditions = PERFECT
    partition: float = 0.0
    """Seconds; 0: providers are killed rather than cut off."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one session: to which stage, after how many tokens."""

    stage: int
    after: int
    harm: Harm


@dataclass(slots=True)
class Outcome:
    """What became of one disturbed session."""

    tokens: list[int] = field(default_factory=list)
    error: str | None = None
    harmed_after: int | None = None
    harm: Harm = "kill"
    seconds: float = 0.0
    gap: float = 0.0
    switched: bool = False


class Swarm:
    """The providers, by stage; the killed ones come back."""

    def __init__(self, nursery: Nursery, checkpoint: Path, lines: Lines) -> None:
        self._nursery = nursery
        self._lines = lines
        self._checkpoint = checkpoint
        stages = range(len(STAGES))
        self._keys = [[nursery.folder / f"{number}-{replica}.key" for replica in range(REPLICAS)] for number in stages]
        self._stages: list[dict[str, tuple[Forked, Path]]] = [{} for _ in STAGES]
        self._maddrs: dict[str, str] = {}
        self._healed = [0.0 for _ in STAGES]
        """When the last cut at a stage ends."""
        self.turns = [asyncio.Lock() for _ in STAGES]
        """Who holds a stage's turn may kill one of its two providers."""
        self.starts = 0

    @property
    def address(self) -> tuple[str, ...]:
        """Addresses of providers that live."""
        return tuple(
            self._maddrs[peer] for stage in self._stages for peer, (forked, _) in stage.items() if forked.running
        )

    async def start(self, stage: int) -> None:
        """Start a provider of a stage (again, under its old identity); returns when it serves."""
        self.starts += 1
        key = self._keys[stage].pop()
        peers = ["--peers", ",".join(self.address[:4])] if self.address else []
        internet = self._lines.internet
        listen = LOOPBACK if internet is None else f"/ip4/{internet.addresses[key.stem]}/tcp/0"
        options = ["--name", NAME, "--blocks", STAGES[stage], "--host-maddrs", listen, "--threads", "1", "--json"]
        options += ["--identity", str(key), *peers]
        namespace = None if internet is None else str(internet[key.stem].path)
        forked = await self._nursery.start("join", "--model", str(self._checkpoint), *options, namespace=namespace)
        joined = await forked.event("joined")
        self._maddrs[joined["peer"]] = joined["maddrs"][0]
        self._stages[stage][joined["peer"]] = forked, key
        await forked.event("serving")

    async def restore(self, plan: Plan) -> None:
        """Start what was killed, wait for the end of a cut."""
        if plan.harm == "kill":
            await self.start(plan.stage)
        else:
            await asyncio.sleep(self._healed[plan.stage] - time.monotonic())

    def harm(self, plan: Plan, hops: tuple[Hop, ...]) -> str:
        """Kill or cut off the provider of a stage on a route; returns its peer id."""
        # A stage may be shared by two hops where one of its providers was avoided before: take that of its first block.
        first = int(STAGES[plan.stage].partition(":")[0])
        place = next(place for place, hop in enumerate(hops) if hop.span.start <= first < hop.span.end)
        peer = hops[place].peer
        if plan.harm == "kill":
            self._kill(plan.stage, peer)
        else:
            self._cut(plan, peer, hops[(place + 1) % len(hops)].peer)
        return peer

    def _cut(self, plan: Plan, victim: str, following: str) -> None:
        internet = self._lines.internet
        if internet is None:
            raise RuntimeError("loopback cannot be cut")
        others = {
            "cut off": [],
            "cut off from client": [CLIENT],
            "cut off from next hop": [self._host(following)],
        }[plan.harm]
        internet.cut([self._host(victim)], others, seconds=self._lines.partition)
        self._healed[plan.stage] = time.monotonic() + self._lines.partition

    def _host(self, peer: str) -> str:
        return next(stage[peer][1].stem for stage in self._stages if peer in stage)

    def _kill(self, stage: int, peer: str) -> None:
        forked, key = self._stages[stage].pop(peer)
        os.kill(forked.pid, signal.SIGKILL)
        self._keys[stage].append(key)


def request(index: int, rng: random.Random, vocab: int, new: int) -> GenerateRequest:
    """The `index`th session: even ones are greedy, odd ones have temperature and a seed."""
    prompt = tuple(rng.randrange(vocab) for _ in range(rng.randint(4, 48)))
    params = SamplingParams(temperature=0.8, seed=rng.randrange(1 << 32)) if index % 2 else SamplingParams()
    return GenerateRequest(NAME, prompt, new, params, ignore_eos=True)


async def undisturbed(client: Client, asked: GenerateRequest, pauses: list[float]) -> list[int]:
    """The tokens of a session that nobody disturbs; `pauses` gets the waits between them."""
    tokens: list[int] = []
    async with asyncio.timeout(ANSWER_SECONDS), client.backend.generate(asked) as generation:
        last: float | None = None
        async for delta in generation:
            now = time.perf_counter()
            if last is not None:
                pauses.append(now - last)
            last = now
            tokens += delta.tokens
    return tokens


async def disturbed(client: Client, swarm: Swarm, asked: GenerateRequest, plan: Plan) -> Outcome:
    """The same session, of which one hop is killed or cut off after a number of tokens."""
    outcome = Outcome(harm=plan.harm)
    victim: str | None = None
    began = last = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_SECONDS), client.backend.generate(asked) as generation:
            async for delta in generation:
                now = time.perf_counter()
                if victim is not None:
                    outcome.gap = max(outcome.gap, now - last)
                last = now
                outcome.tokens += delta.tokens
                if victim is None and len(outcome.tokens) >= plan.after:
                    victim = swarm.harm(plan, generation.hops)
                    outcome.harmed_after = len(outcome.tokens)
            outcome.switched = victim is not None and victim not in {hop.peer for hop in generation.hops}
    except (MeshError, TimeoutError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.seconds = time.perf_counter() - began
    return outcome


async def turn(client: Client, swarm: Swarm, asked: GenerateRequest, plan: Plan) -> Outcome:
    """Wait for the stage to have both its providers, run the session, bring back what it killed."""
    async with swarm.turns[plan.stage]:
        outcome = await disturbed(client, swarm, asked, plan)
        if outcome.harmed_after is not None:
            await swarm.restore(plan)
    return outcome


def differing(tokens: list[int], expected: list[int]) -> int:
    """Positions at which they are not the same."""
    return sum(a != b for a, b in zip(tokens, expected, strict=False)) + abs(len(tokens) - len(expected))


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and most, in seconds."""
    cuts = statistics.quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
    return {"p50": round(cuts[9], 4), "p95": round(cuts[18], 4), "max": round(max(values), 4)}


async def measure(sessions: int, new: int, seed: int, folder: Path, lines: Lines) -> dict[str, Any]:
    """Run it all; the report."""
    rng = random.Random(seed)
    size = SIZES["smoke"]
    checkpoint = await asyncio.to_thread(write_checkpoint, folder / "model", size)
    requests = [request(index, rng, size.vocab, new) for index in range(sessions)]
    plans = [
        Plan(rng.randrange(len(STAGES)), rng.randint(1, new // 2), rng.choice(CUTS) if lines.partition else "kill")
        for _ in requests
    ]
    began = time.monotonic()
    async with Nursery(folder) as nursery:
        swarm = Swarm(nursery, checkpoint, lines)
        await swarm.start(0)  # the others join through it
        await asyncio.gather(*(swarm.start(stage) for stage in ([*range(len(STAGES))] * REPLICAS)[1:]))
        async with Client(swarm.address, runtime_root=folder / "run") as client:
            pauses: list[float] = []
            gate = asyncio.Semaphore(len(STAGES))

            async def calm(asked: GenerateRequest) -> list[int]:
                async with gate:
                    return await undisturbed(client, asked, pauses)

            expected = await asyncio.gather(*map(calm, requests))
            if lines.internet is not None:
                lines.internet.shape(lines.conditions)
            done = 0

            async def stormy(asked: GenerateRequest, plan: Plan) -> Outcome:
                nonlocal done
                outcome = await turn(client, swarm, asked, plan)
                done += 1
                if done % 20 == 0 or outcome.error is not None:
                    logging.info("%d of %d after %.0f s %s", done, sessions, time.monotonic() - began, outcome.error)
                return outcome

            outcomes = await asyncio.gather(*(stormy(r, plan) for r, plan in zip(requests, plans, strict=True)))
        starts = swarm.starts
        if lines.internet is not None:
            lines.internet.shape(PERFECT)  # so that all can say goodbye
    return report(outcomes, expected, pauses, new, seed, starts, time.monotonic() - began, lines)


def report(
    outcomes: list[Outcome],
    expected: list[list[int]],
    pauses: list[float],
    new: int,
    seed: int,
    starts: int,
    seconds: float,
    lines: Lines,
) -> dict[str, Any]:
    """What is printed."""
    harm = f"cut off for {lines.partition:g} s" if lines.partition else "kill -9"
    kinds: dict[str, Any] = {}
    for name, parity in (("greedy", 0), ("temperature 0.8", 1)):
        own = [index for index in range(len(outcomes)) if index % 2 == parity]
        if not own:
            continue
        kinds[name] = {
            "sessions": len(own),
            "harmed": sum(outcomes[index].harmed_after is not None for index in own),
            "switched": sum(outcomes[index].switched for index in own),
            "lost": sum(len(outcomes[index].tokens) != len(expected[index]) for index in own),
            "tokens": sum(len(expected[index]) for index in own),
            "tokens_differing": sum(differing(outcomes[index].tokens, expected[index]) for index in own),
            "gap_seconds": quantiles([outcomes[index].gap for index in own]),
            "session_seconds": quantiles([outcomes[index].seconds for index in own]),
        }
    return {
        "benchmark": "survival",
        "title": f"{len(outcomes)} sessions of {new} tokens, one {harm} each; {len(STAGES)} stages x {REPLICAS}",
        "method": "The longest wait between two tokens from the harm on, beside the usual wait; one client.",
        "machine": machine(),
        "seed": seed,
        "seconds": round(seconds, 1),
        "provider_starts": starts,
        "lines": None if lines.internet is None else asdict(lines.conditions),
        "partition_seconds": lines.partition,
        "gap_seconds_by_harm": {
            kind: quantiles(gaps)
            for kind in dict.fromkeys(outcome.harm for outcome in outcomes)
            if (gaps := [outcome.gap for outcome in outcomes if outcome.harm == kind])
        },
        "wait_between_tokens_undisturbed_seconds": quantiles(pauses),
        "gap_seconds": quantiles([outcome.gap for outcome in outcomes]),
        "errors": [outcome.error for outcome in outcomes if outcome.error is not None],
        "kinds": kinds,
    }


@contextmanager
def emulated(conditions: Conditions, partition: float, seed: int) -> Iterator[Lines]:
    """Hosts for all, with this process on the client's; loopback where nothing is asked of the lines."""
    if conditions == PERFECT and not partition:
        yield Lines()
        return
    hosts = [f"{stage}-{replica}" for stage in range(len(STAGES)) for replica in range(REPLICAS)]
    with (
        Namespaces() as net,
        open_internet(net, [CLIENT, *hosts], seed=seed) as internet,
        internet[CLIENT].inside(),
    ):
        yield Lines(internet, conditions, partition)


def main() -> None:
    """Parse options and run; the exit code is 1 when a session was lost or a token differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.survival", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--new", type=int, default=96, help="tokens to generate")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts, the kills and the sessions' own seeds")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a few sessions: does it run?")
    parser.add_argument("--loss", type=float, default=0.0, help="probability that a packet is lost, on every line")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="time on the way, one way")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="it is uniform in delay ± jitter")
    parser.add_argument("--reorder", action="store_true", help="packets may overtake each other")
    parser.add_argument("--partition-seconds", type=float, default=0.0, help="cut off instead of killing")
    options = parser.parse_args()
    if options.smoke:
        options.sessions, options.new = 6, 64
    conditions = Conditions(options.loss, options.delay_ms / 1000, options.jitter_ms / 1000, options.reorder)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with (
        tempfile.TemporaryDirectory(prefix="sv-", dir="/tmp") as folder,
        emulated(conditions, options.partition_seconds, options.seed) as lines,
    ):
        found = asyncio.run(measure(options.sessions, options.new, options.seed, Path(folder), lines))
    rows = [
        (
            name,
            *(str(kind[key]) for key in ("sessions", "harmed", "switched", "lost", "tokens", "tokens_differing")),
            *(f"{kind['gap_seconds'][key] * 1000:.0f}" for key in ("p50", "p95", "max")),
        )
        for name, kind in found["kinds"].items()
    ]
    columns = ("sampling", "sessions", "harmed", "switched", "lost", "tokens", "differing")
    print_report(found, (*columns, "gap p50 ms", "p95", "max"), rows, options.json)
    good = all(kind["lost"] == kind["tokens_differing"] == 0 for kind in found["kinds"].values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
