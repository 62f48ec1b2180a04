"""Sessions that each lose a provider to `kill -9` at a random token, beside the same sessions undisturbed.

    python -m benchmarks.survival [--sessions 200] [--json FILE] [--smoke]

Three stages, two providers each, all real processes on loopback. First every session runs undisturbed. Then each runs
again: one stage is drawn for it, and when a drawn number of tokens has come, the provider that serves this stage on its
route gets SIGKILL. The provider is started again at once, and no other session may kill at that stage before both its
providers serve again; up to three sessions, at different stages, run and kill at the same time, so that sessions also
meet kills that were meant for others. Half of them are greedy, half have temperature 0.8 and a seed; float32.

Lost: sessions that did not end with all their tokens. Differing: tokens that are not those of the undisturbed run.
Recovery gap: the longest wait between two tokens from the kill on. Switched: sessions whose route changed after the
kill (in the others the provider had done its part before the signal reached it).
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, write_checkpoint
from benchmarks.nursery import Forked, Nursery
from benchmarks.report import machine, print_report
from mesh.client.client import Client
from mesh.client.types import GenerateRequest
from mesh.errors import MeshError
from mesh.swarm.route import Hop
from shards.sampling_params import SamplingParams

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
NAME = "survivor"
STAGES = ("0:2", "2:3", "3:4")
REPLICAS = 2
ANSWER_SECONDS = 180.0


@dataclass(slots=True)
class Outcome:
    """What became of one disturbed session."""

    tokens: list[int] = field(default_factory=list)
    error: str | None = None
    killed_after: int | None = None
    gap: float = 0.0
    switched: bool = False


class Swarm:
    """The providers, by stage; the killed ones come back."""

    def __init__(self, nursery: Nursery, checkpoint: Path) -> None:
        self._nursery = nursery
        self._checkpoint = checkpoint
        self._keys = [[nursery.folder / f"{stage}-{replica}.key" for replica in range(REPLICAS)] for stage in STAGES]
        self._stages: list[dict[str, tuple[Forked, Path]]] = [{} for _ in STAGES]
        self._maddrs: dict[str, str] = {}
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
        options = ["--name", NAME, "--blocks", STAGES[stage], "--host-maddrs", LOOPBACK, "--threads", "1", "--json"]
        options += ["--identity", str(key)]
        forked = await self._nursery.start("join", "--model", str(self._checkpoint), *options, *peers)
        joined = await forked.event("joined")
        self._maddrs[joined["peer"]] = joined["maddrs"][0]
        self._stages[stage][joined["peer"]] = forked, key
        await forked.event("serving")

    def kill(self, stage: int, hops: tuple[Hop, ...]) -> str:
        """SIGKILL for the provider that serves the stage on a route; returns its peer id."""
        peer = hops[stage].peer
        forked, key = self._stages[stage].pop(peer)
        os.kill(forked.pid, signal.SIGKILL)
        self._keys[stage].append(key)
        return peer


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


async def disturbed(client: Client, swarm: Swarm, asked: GenerateRequest, stage: int, after: int) -> Outcome:
    """The same session, of which one hop is killed after a number of tokens."""
    outcome = Outcome()
    victim: str | None = None
    last = 0.0
    try:
        async with asyncio.timeout(ANSWER_SECONDS), client.backend.generate(asked) as generation:
            async for delta in generation:
                now = time.perf_counter()
                if victim is not None:
                    outcome.gap = max(outcome.gap, now - last)
                last = now
                outcome.tokens += delta.tokens
                if victim is None and len(outcome.tokens) >= after:
                    victim = swarm.kill(stage, generation.hops)
                    outcome.killed_after = len(outcome.tokens)
            outcome.switched = victim is not None and victim not in {hop.peer for hop in generation.hops}
    except (MeshError, TimeoutError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def turn(client: Client, swarm: Swarm, asked: GenerateRequest, stage: int, after: int) -> Outcome:
    """Wait for the stage to have both its providers, run the session, bring back what it killed."""
    async with swarm.turns[stage]:
        outcome = await disturbed(client, swarm, asked, stage, after)
        if outcome.killed_after is not None:
            await swarm.start(stage)
    return outcome


def differing(tokens: list[int], expected: list[int]) -> int:
    """Positions at which they are not the same."""
    return sum(a != b for a, b in zip(tokens, expected, strict=False)) + abs(len(tokens) - len(expected))


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and most, in seconds."""
    cuts = statistics.quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
    return {"p50": round(cuts[9], 4), "p95": round(cuts[18], 4), "max": round(max(values), 4)}


async def measure(sessions: int, new: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run it all; the report."""
    rng = random.Random(seed)
    size = SIZES["smoke"]
    checkpoint = await asyncio.to_thread(write_checkpoint, folder / "model", size)
    requests = [request(index, rng, size.vocab, new) for index in range(sessions)]
    plans = [(rng.randrange(len(STAGES)), rng.randint(1, new // 2)) for _ in requests]
    began = time.monotonic()
    async with Nursery(folder) as nursery:
        swarm = Swarm(nursery, checkpoint)
        await swarm.start(0)  # the others join through it
        await asyncio.gather(*(swarm.start(stage) for stage in ([*range(len(STAGES))] * REPLICAS)[1:]))
        async with Client(swarm.address, runtime_root=folder / "run") as client:
            pauses: list[float] = []
            gate = asyncio.Semaphore(len(STAGES))

            async def calm(asked: GenerateRequest) -> list[int]:
                async with gate:
                    return await undisturbed(client, asked, pauses)

            expected = await asyncio.gather(*map(calm, requests))
            done = 0

            async def stormy(asked: GenerateRequest, stage: int, after: int) -> Outcome:
                nonlocal done
                outcome = await turn(client, swarm, asked, stage, after)
                done += 1
                if done % 20 == 0 or outcome.error is not None:
                    logging.info("%d of %d after %.0f s %s", done, sessions, time.monotonic() - began, outcome.error)
                return outcome

            outcomes = await asyncio.gather(*(stormy(r, *plan) for r, plan in zip(requests, plans, strict=True)))
        starts = swarm.starts
    return report(outcomes, expected, pauses, new, seed, starts, time.monotonic() - began)


def report(
    outcomes: list[Outcome],
    expected: list[list[int]],
    pauses: list[float],
    new: int,
    seed: int,
    starts: int,
    seconds: float,
) -> dict[str, Any]:
    """What is printed."""
    kinds: dict[str, Any] = {}
    for name, parity in (("greedy", 0), ("temperature 0.8", 1)):
        own = [index for index in range(len(outcomes)) if index % 2 == parity]
        if not own:
            continue
        kinds[name] = {
            "sessions": len(own),
            "killed": sum(outcomes[index].killed_after is not None for index in own),
            "switched": sum(outcomes[index].switched for index in own),
            "lost": sum(len(outcomes[index].tokens) != len(expected[index]) for index in own),
            "tokens": sum(len(expected[index]) for index in own),
            "tokens_differing": sum(differing(outcomes[index].tokens, expected[index]) for index in own),
            "gap_seconds": quantiles([outcomes[index].gap for index in own]),
        }
    return {
        "benchmark": "survival",
        "title": f"{len(outcomes)} sessions of {new} tokens, one kill -9 each; {len(STAGES)} stages x {REPLICAS}",
        "method": "The longest wait between two tokens from the kill on, beside the usual wait; one client.",
        "machine": machine(),
        "seed": seed,
        "seconds": round(seconds, 1),
        "provider_starts": starts,
        "wait_between_tokens_undisturbed_seconds": quantiles(pauses),
        "gap_seconds": quantiles([outcome.gap for outcome in outcomes]),
        "errors": [outcome.error for outcome in outcomes if outcome.error is not None],
        "kinds": kinds,
    }


def main() -> None:
    """Parse options and run; the exit code is 1 when a session was lost or a token differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survival", description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--new", type=int, default=96, help="tokens to generate")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts, the kills and the sessions' own seeds")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument("--smoke", action="store_true", help="a few sessions: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.sessions, options.new = 6, 64
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="sv-", dir="/tmp") as folder:
        found = asyncio.run(measure(options.sessions, options.new, options.seed, Path(folder)))
    rows = [
        (
            name,
            *(str(kind[key]) for key in ("sessions", "killed", "switched", "lost", "tokens", "tokens_differing")),
            *(f"{kind['gap_seconds'][key] * 1000:.0f}" for key in ("p50", "p95", "max")),
        )
        for name, kind in found["kinds"].items()
    ]
    columns = ("sampling", "sessions", "killed", "switched", "lost", "tokens", "differing")
    print_report(found, (*columns, "gap p50 ms", "p95", "max"), rows, options.json)
    good = all(kind["lost"] == kind["tokens_differing"] == 0 for kind in found["kinds"].values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
