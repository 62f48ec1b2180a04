"""One simulation from its seed to its end: a swarm, work for it, faults, rest; and whether everything held."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

import torch

from mesh.payment.credit.terms import CreditTerms
from shards.model.span import Span
from tests.mesh.payment.money import MemoryChain
from tests.mesh.provider.guesses import KnownGuesses
from tests.simulation import loop as loops
from tests.simulation.board import REPLICAS, SimDht
from tests.simulation.chaos import Chaos
from tests.simulation.developer import Developer, Job, draw_job
from tests.simulation.faults import Plan, draw_plan
from tests.simulation.hosts import GatewayHost, ProviderHost, Site, identity_of
from tests.simulation.invariants import Invariants
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Clock, VirtualLoop
from tests.simulation.market import Market
from tests.simulation.model import VOCAB, model_files
from tests.simulation.nature import nature
from tests.simulation.network import Line, SimNetwork
from tests.simulation.trace import Trace

CALM_SECONDS = 36.0
"""So long after the last fault records are as they should be, and penalties are forgotten."""
REST_SECONDS = 400.0
"""So long after the faults everything must have come to rest."""
GAP_SECONDS = 65.0
"""A record lives 30 s, a mover drains 30 s: what a provider knows of others may be that old when it leaves."""


@dataclass(slots=True)
class Result:
    """What became of a seed."""

    seed: int
    hostile: bool
    digest: str = ""
    events: int = 0
    virtual_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    guessed: int = 0
    """Tokens that last hops guessed at."""
    attempts: int = 0
    jobs: int = 0
    broken: list[str] = field(default_factory=list)
    trace: Trace | None = None


def simulate(
    seed: int, *, hostile: bool | None = None, plan: Plan | None = None, trace: bool = False, verbose: bool = False
) -> Result:
    """Run one seed. `hostile` None: every eighth seed has lines that double, swap and swallow frames.

    With a `plan` its faults happen and not those that the seed would draw.
    """
    torch.set_num_threads(1)
    _freeze_what_is_loaded()
    result = Result(seed, seed % 8 == 7 if hostile is None else hostile)
    collecting = gc.isenabled()
    gc.disable()  # whatever a collection ends, it would end at another moment in every run
    try:
        virtual = VirtualLoop()
        texts: dict[tuple[int, ...], tuple[int, ...]] = {}
        guesses = KnownGuesses(lambda fed: answer_after(texts, fed), Random(f"{seed}/guesses"), VOCAB)
        with nature(virtual, seed, verbose=verbose, guesses=guesses) as errors:
            world = World(virtual, seed, result, plan)
            texts |= {job.prompt: job.expected for job in world.jobs}
            loops.run_on(virtual, world.main())
            gc.collect()
        result.guessed = guesses.guessed
        result.broken += [f"unhandled: {text}" for text in virtual.failures]
        result.broken += [f"logged: {text}" for text in errors.lines]
        result.events, result.digest = len(world.trace), world.trace.digest()
        if trace:
            result.trace = world.trace
    finally:
        if collecting:
            gc.enable()
    return result


@cache
def _freeze_what_is_loaded() -> None:
    """Once in a process: else each run's collection would look through all modules, for a third of a second."""
    gc.freeze()


def answer_after(texts: Mapping[tuple[int, ...], tuple[int, ...]], fed: Sequence[int]) -> tuple[int, ...]:
    """How a text goes on that begins with these tokens, by prompt and answer; nothing where it is none of them."""
    for prompt, answer in texts.items():
        text = prompt + answer
        if len(fed) >= len(prompt) and text[: len(fed)] == tuple(fed):
            return text[len(fed) :]
    return ()


class World:
    """The swarm of one seed."""

    def __init__(self, loop: VirtualLoop, seed: int, result: Result, plan: Plan | None = None) -> None:
        self.loop = loop
        self.result = result
        self.trace = Trace(loop.time)
        shape = Random(f"{seed}/shape")
        self.n_blocks = shape.randint(3, 8)
        n_providers, n_gateways = shape.randint(3, 6), shape.choice((1, 1, 2))
        names = [f"provider-{n}" for n in range(n_providers)] + [f"gateway-{n}" for n in range(n_gateways)]
        self.plan = plan or draw_plan(Random(f"{seed}/faults"), nodes=len(names), hostile=result.hostile)
        self.trace.names = {identity_of(name).peer_id: name for name in names}
        terms = CreditTerms(shape.choice((64, 256, 1024)), pause_seconds=shape.choice((2.0, 10.0)))
        self.ledger = Ledger(self.n_blocks, terms.tokens, self.broken)
        network = SimNetwork(loop, Random(f"{seed}/network"), note=self.trace.note, sent=self.ledger.sent)
        dht = SimDht(loop, Random(f"{seed}/dht"), [shape.uniform(-1.0, 1.0) for _ in range(REPLICAS)], self.broken)
        self.site = Site(
            loop,
            Random(f"{seed}/machines"),
            network,
            dht,
            MemoryChain(),
            terms,
            model_files(self.n_blocks),
            self.trace.note,
        )
        clocks = [Clock(skew, rate) for skew, rate in zip(self.plan.skews, self.plan.rates, strict=True)][: len(names)]
        self.providers = [self._provider(shape, name, clocks[n]) for n, name in enumerate(names[:n_providers])]
        self.gateways = [
            GatewayHost(self.site, name, clocks[n_providers + n]) for n, name in enumerate(names[n_providers:])
        ]
        for host in (*self.providers, *self.gateways):
            self.ledger.know(host)
        if result.hostile:
            self._make_hostile(Random(f"{seed}/hostile"), names)
        self.chaos = Chaos(self.site, self.providers, self.gateways, Random(f"{seed}/chaos"))
        self.market = Market(
            self.site,
            self.providers,
            self.gateways,
            Random(f"{seed}/market"),
            self.broken,
            credit=terms.tokens * self.n_blocks,
        )
        self.invariants = Invariants(self.n_blocks, self.providers, self.gateways, self.broken)
        self.start_at = 9.0
        """When the faults begin: the swarm has found together by then."""
        self.end_at = self.start_at + self.plan.until
        self.market.plan(self.start_at, self.end_at)
        jobs = Random(f"{seed}/jobs")
        self.jobs: list[Job] = [
            draw_job(jobs, n, jobs.choice(self.gateways), self.n_blocks, jobs.uniform(5.0, self.end_at))
            for n in range(jobs.randint(4, 8))
        ]
        self.jobs += [
            draw_job(jobs, 100 + n, gateway, self.n_blocks, self.end_at + CALM_SECONDS + 5.0)
            for n, gateway in enumerate(self.gateways)
        ]
        self._covered_since: float | None = None
        self._lost_at = [-1e9] * self.n_blocks
        """When a replica of each block went for another reason than a move."""

    def broken(self, text: str) -> None:
        self.trace.note("BROKEN", text)
        if len(self.result.broken) < 20:
            self.result.broken.append(f"{self.loop.time():.3f}: {text}")

    def _provider(self, shape: Random, name: str, clock: Clock) -> ProviderHost:
        share = -(-self.n_blocks // 3)
        memory = shape.randint(share, self.n_blocks)
        host = ProviderHost(
            self.site,
            name,
            clock,
            memory=memory,
            offered=memory if shape.random() < 0.4 else None,
            block_rate=shape.choice((50.0, 100.0, 400.0)),
            load_seconds=shape.choice((0.05, 0.3, 1.0)),
            kv_bytes=shape.choice((1 << 20, 1 << 20, 112 * 16 * self.n_blocks)),
            drain_seconds=shape.choice((0.0, 5.0)),
            moved=self._moved,
            went=self._went,
        )
        host.observe = self.ledger.worked
        return host

    def _make_hostile(self, random: Random, names: list[str]) -> None:
        peers = [identity_of(name).peer_id for name in names]
        for one in peers:
            for other in peers:
                if random.random() < 0.5:
                    line = self.site.network.line(one, other)
                    bad = tuple(random.choice((0.0, 0.02, 0.1)) for _ in range(3))
                    self.site.network.lines[one, other] = Line(line.delay, line.jitter, bad)  # type: ignore[arg-type]

    # --- placement ---

    def _moved(self, host: ProviderHost, old: Span, new: Span) -> None:
        """A provider has left blocks for others: they must be served without it."""
        now = self.loop.time()
        self.trace.note("moves", host.name, old, new)
        served = {block for span in self.invariants.served for block in span}
        left = [block for block in old if block not in served]
        complete = len(served | set(old)) == self.n_blocks
        self.invariants.checks["a move opens no gap"] += 1
        blind = max(self.chaos.disturbed_at, self.site.dht.disturbed_at) > now - GAP_SECONDS
        sudden = any(self._lost_at[block] > now - GAP_SECONDS for block in left)
        if left and complete and not blind and not sudden:
            self.broken(f"{host.name} moves from {old} to {new} and leaves {left} to nobody")

    def _went(self, host: ProviderHost, old: Span) -> None:
        for block in old:
            self._lost_at[block] = self.loop.time()

    # --- the course of events ---

    async def main(self) -> None:
        with self.ledger.probes():
            for host in (*self.providers, *self.gateways):
                wait = self.site.random.choice((0.0, 0.0, self.site.random.uniform(0.0, 4.0)))
                self.loop.at(self.loop.time() + wait, host.start)
            for fault in self.plan.faults:
                self.loop.at(self.start_at + fault.at, self.chaos.apply, fault)
            developers = [
                Developer(self.loop, job, broken=self.broken, report=self.trace.note, calm=self._calm)
                for job in self.jobs
            ]
            tasks = [self.loop.create_task(developer.run(), name="developer") for developer in developers]
            await self._watch_until(self.end_at)
            self.chaos.stop()
            self.market.calm()
            await self._rest(tasks)
            await self._end(tasks)

    def _calm(self) -> bool:
        """An answer must come: the faults are long over, and every block has been served as long."""
        now, since = self.loop.time(), self._covered_since
        return self.chaos.over and since is not None and now - since > CALM_SECONDS

    async def _watch_until(self, when: float) -> None:
        while self.loop.time() < when:
            self._look()
            await asyncio.sleep(1.0)

    def _look(self) -> None:
        self.invariants.always()
        self.market.check()
        if int(self.loop.time()) % 8 == 0:
            self.ledger.check()
        if self.invariants.gaps or not self.chaos.over:
            self._covered_since = None
        elif self._covered_since is None:
            self._covered_since = self.loop.time()

    async def _rest(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait until all answers have come and nothing is left of them."""
        deadline = self.loop.time() + REST_SECONDS
        while self.loop.time() < deadline:
            self._look()
            if all(task.done() for task in tasks) and not self.invariants.at_rest() and not self.invariants.gaps:
                break
            await asyncio.sleep(1.0)
        for job in self.jobs:
            if not job.done:
                self.broken(
                    f"job {job.number} has not ended {REST_SECONDS:g} s after the last fault ({job.last_error})"
                )
        self.invariants.at_the_end()
        self.ledger.epochs = self.site.chain.epoch
        self.ledger.check()
        self.ledger.check_losses()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Stop everybody; no task may be left."""
        for task in tasks:
            task.cancel()
        hosts = (*self.providers, *self.gateways)
        for host in hosts:
            if host.task is not None and not host.task.done():
                host.task.cancel()
        running = [host.task for host in hosts if host.task is not None]
        await asyncio.wait([*running, *tasks], timeout=60.0)
        await asyncio.sleep(15.0)
        me = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not me]
        self.invariants.checks["no task is left"] += 1
        for task in left:
            self.broken(f"a task is left: {task.get_name()} {task.get_coro()!r:.100}")
            task.cancel()
        for host in hosts:
            task = host.task
            if task is not None and task.done() and not task.cancelled() and task.exception() is not None:
                self.broken(f"{host.name} ended with {task.exception()!r}")
            host.journal.__exit__(None, None, None)
        result = self.result
        result.virtual_seconds = self.loop.time()
        result.faults = self.chaos.counts + self.site.dht.counts + Counter(self.site.network.hostile_counts)
        result.faults += self.market.counts
        result.faults["clock_off"] += sum(1 for skew in self.plan.skews if skew)
        result.checks = self.invariants.checks + self.ledger.checks + self.market.checks
        result.checks["each token once and in order"] = result.tokens = sum(len(job.got) for job in self.jobs)
        result.checks["no record takes the place of a newer one"] = self.site.dht.records_read
        result.attempts = sum(job.attempts for job in self.jobs)
        result.jobs = len(self.jobs)
