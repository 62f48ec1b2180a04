"""A swarm in simulated time for `benchmarks.placement`: heterogeneous nodes that come, go, load and move."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from mesh.swarm.placement import Totals, weakest_window
from mesh.swarm.rebalance import better_window, repair
from mesh.swarm.view import ProviderView
from shards.model.span import Span

N_BLOCKS = 80
STEP_SECONDS = 5.0
LOAD_SECONDS_PER_BLOCK = 2.0
NOTICE_SECONDS = 30.0
"""How long a dead node's record is believed."""
MEAN_LIFE_SECONDS = 1800.0
KINDS = (  # share of the nodes, block-tokens per second, blocks that fit
    (0.25, 300.0, 4),
    (0.25, 1000.0, 8),
    (0.25, 2000.0, 12),
    (0.18, 5000.0, 24),
    (0.05, 7000.0, 48),
    (0.02, 12000.0, 80),
)
LINKS = ((0.2, 80.0), (0.5, 760.0), (0.3, 7600.0))
"""Share of the nodes, tokens per second: 10, 100 and 1,000 Mbit/s at 16 KiB a token."""


@dataclass(slots=True)
class Node:
    """One node: what it is, and what it does now. `view` is what others see of it."""

    view: ProviderView
    dies_at: float
    ready_at: float = 0.0
    wanted: Span | None = None
    check_at: float = 0.0


def draw_node(numbers: random.Random, name: str) -> ProviderView:
    """A machine and a link as they come."""
    _, rate, blocks = numbers.choices(KINDS, [share for share, _, _ in KINDS])[0]
    _, link = numbers.choices(LINKS, [share for share, _ in LINKS])[0]
    speed, wire = numbers.lognormvariate(0.0, 0.3), numbers.lognormvariate(0.0, 0.3)
    return ProviderView(name, Span(0, 1), rate * speed, serving=False, max_blocks=blocks, link_rate=link * wire)


class Policy(Protocol):
    """Where nodes go. `known` is what everybody sees (dead nodes too, until their records expire)."""

    name: str

    def join(self, known: Totals, mine: ProviderView) -> Span | None:
        """The span of a node that joins; None when it finds no use for itself."""

    def check(self, swarm: Swarm, node: Node) -> Span | None:
        """Where a serving node moves to, None to stay."""

    def interval(self, nodes: int) -> float:
        """Seconds between a node's checks."""


class Ours:
    """`mesh.swarm.placement` and `mesh.swarm.rebalance` as `mesh join --max-blocks` uses them."""

    name = "mesh"

    def __init__(self) -> None:
        self._plan: tuple[int, dict[str, Span]] = (-1, {})

    def join(self, known: Totals, mine: ProviderView) -> Span | None:
        return weakest_window(known, min(mine.max_blocks, N_BLOCKS))

    def check(self, swarm: Swarm, node: Node) -> Span | None:
        before, node.wanted = node.wanted, self._wanted(swarm, node)
        if node.wanted is None or node.wanted != before:
            return None
        # It asks those that it relies on whether they are there before it leaves.
        span = node.view.span
        others = swarm.served.replicas.copy()
        others[span.start : span.end] -= 1
        opens = (others[span.start : span.end] == 0).any() and not (swarm.served.replicas == 0).any()
        return None if opens else node.wanted

    def _wanted(self, swarm: Swarm, node: Node) -> Span | None:
        known = swarm.known
        if (known.replicas == 0).any():
            if self._plan[0] != swarm.version:
                self._plan = (swarm.version, repair(N_BLOCKS, swarm.views()))
            return self._plan[1].get(node.view.peer)
        if (known.serving[node.view.span.start : node.view.span.end] < 2).any():
            return None
        return better_window(known, node.view)

    def interval(self, nodes: int) -> float:
        return 8.0 * max(1.0, nodes / 100)


class PetalsGreedy:
    """The rule of Petals' papers (Borzunov et al., 2022 and 2023), written from their description.

    A server takes the contiguous interval, as long as it has memory, whose throughputs are lowest (sorted, compared in
    order, so the minimum first). Now and then it estimates what the swarm would make if servers chose again, and
    chooses again itself if the swarm makes less than a threshold of that.
    """

    name = "Petals' greedy rule"
    quality = 0.75
    sample = 200

    def __init__(self) -> None:
        self._estimate = (-1.0, 0.0)

    def join(self, known: Totals, mine: ProviderView) -> Span | None:
        length = min(mine.max_blocks, N_BLOCKS)
        windows = np.sort(np.lib.stride_tricks.sliding_window_view(known.rates, length), axis=1)
        start = int(np.lexsort(windows.T[::-1])[0])
        return Span(start, start + length)

    def check(self, swarm: Swarm, node: Node) -> Span | None:
        if self._estimate[0] != swarm.now:
            self._estimate = (swarm.now, self._reachable(swarm))
        if swarm.known.rates.min() >= self.quality * self._estimate[1]:
            return None
        target = self._again(swarm.known, node.view)
        return target if target != node.view.span else None

    def _again(self, known: Totals, mine: ProviderView) -> Span:
        known.add(mine, -1)
        target = self.join(known, mine)
        known.add(mine)
        return target or mine.span

    def _reachable(self, swarm: Swarm) -> float:
        """What the swarm would make once many of its servers had chosen again, one after another."""
        views = [node.view for node in swarm.nodes.values() if node.view.serving]
        trial = Totals(N_BLOCKS)
        trial.rates, trial.replicas, trial.serving = (
            swarm.known.rates.copy(),
            swarm.known.replicas.copy(),
            swarm.known.serving.copy(),
        )
        trial.spans.update(swarm.known.spans)
        for view in swarm.numbers.sample(views, min(self.sample, len(views))):
            target = self._again(trial, view)
            trial.add(view, -1)
            trial.add(replace(view, span=target))
        return float(trial.rates.min())

    def interval(self, nodes: int) -> float:
        return 120.0


class UniformSplit:
    """Equal parts, each node a replica of the part with fewest, nobody moves. Nodes with less memory stay idle."""

    name = "uniform split"

    def __init__(self, stages: int) -> None:
        self.parts = [Span(N_BLOCKS * i // stages, N_BLOCKS * (i + 1) // stages) for i in range(stages)]

    def join(self, known: Totals, mine: ProviderView) -> Span | None:
        fits = [part for part in self.parts if len(part) <= mine.max_blocks]
        return min(fits, key=lambda part: (known.replicas[part.start], part.start), default=None)

    def check(self, swarm: Swarm, node: Node) -> Span | None:
        return None

    def interval(self, nodes: int) -> float:
        return float("inf")


@dataclass(slots=True)
class Swarm:
    """All nodes, in steps of `STEP_SECONDS`; `known` is what records say, `served` what is really there."""

    policy: Policy
    size: int
    world: random.Random
    """Who comes, and how long each stays: the same for every policy."""
    numbers: random.Random
    """What else is left to chance."""
    now: float = 0.0
    version: int = 0
    moves: int = 0
    opened: int = 0
    """Moves after which a block was served by nobody that was served before."""
    gap_steps: int = 0
    steps: int = 0
    fractions: list[float] = field(default_factory=list)
    bottlenecks: list[float] = field(default_factory=list)
    decisions: list[float] = field(default_factory=list)
    """Seconds that each decision took."""
    nodes: dict[str, Node] = field(default_factory=dict)
    known: Totals = field(default_factory=lambda: Totals(N_BLOCKS))
    served: Totals = field(default_factory=lambda: Totals(N_BLOCKS))
    _forgotten: deque[tuple[float, ProviderView]] = field(default_factory=deque)
    _idle: dict[str, Node] = field(default_factory=dict)
    _loading: set[str] = field(default_factory=set)
    _born: int = 0

    def fill(self) -> None:
        """The first nodes, one after another, all loaded."""
        for _ in range(self.size):
            self.arrive(load=False)

    def views(self) -> list[ProviderView]:
        """What everybody sees."""
        return [*(node.view for node in self.nodes.values()), *(view for _, view in self._forgotten)]

    def arrive(self, *, load: bool = True) -> None:
        """A new node joins."""
        self._born += 1
        mine = draw_node(self.world, f"node{self._born}")
        dies_at = self.now + self.world.expovariate(1 / MEAN_LIFE_SECONDS)
        span = self._timed(lambda: self.policy.join(self.known, mine))
        if span is None:
            self._idle[mine.peer] = Node(mine, dies_at)
            return
        node = Node(replace(mine, span=span), dies_at)
        node.check_at = self.now + self.numbers.random() * self.policy.interval(self.size)
        self.nodes[mine.peer] = node
        self.known.add(node.view)
        self._start_loading(node, 0.0 if not load else LOAD_SECONDS_PER_BLOCK * len(span))
        if not load:
            self._finish_loading()
        self.version += 1

    def step(self, churn: bool = True) -> None:
        """One step of time: nodes finish loading, leave without a word, join, check; then measure."""
        self.now += STEP_SECONDS
        self._finish_loading()
        while self._forgotten and self._forgotten[0][0] <= self.now:
            self.known.add(self._forgotten.popleft()[1], -1)
            self.version += 1
        if churn:
            for name in [name for name, node in self.nodes.items() if node.dies_at <= self.now]:
                self._die(name)
            for name in [name for name, node in self._idle.items() if node.dies_at <= self.now]:
                del self._idle[name]
            for _ in range(self._poisson(self.size * STEP_SECONDS / MEAN_LIFE_SECONDS)):
                self.arrive()
        due = [node for node in self.nodes.values() if node.view.serving and node.check_at <= self.now]
        self.numbers.shuffle(due)
        for node in due:
            node.check_at = self.now + self.policy.interval(len(self.nodes)) * self.numbers.uniform(0.7, 1.3)
            target = self._timed(lambda node=node: self.policy.check(self, node))  # type: ignore[misc]
            if target is not None:
                self._move(node, target)
        self._measure()

    def _measure(self) -> None:
        self.steps += 1
        whole = not (self.served.replicas == 0).any()
        self.gap_steps += not whole
        bottleneck = float(self.served.rates.min()) if whole else 0.0
        everybody = (*self.nodes.values(), *self._idle.values())
        able = sum(min(n.view.block_rate, n.view.link_rate * n.view.max_blocks) for n in everybody)
        self.bottlenecks.append(bottleneck)
        self.fractions.append(bottleneck / (able / N_BLOCKS) if able else 0.0)

    def _move(self, node: Node, target: Span) -> None:
        whole = not (self.served.replicas == 0).any()
        self.moves += 1
        self.served.add(node.view, -1)
        self.known.add(node.view, -1)
        node.view = replace(node.view, span=target, serving=False)
        node.wanted = None
        self.known.add(node.view)
        self._start_loading(node, LOAD_SECONDS_PER_BLOCK * len(target))
        self.opened += whole and bool((self.served.replicas == 0).any())
        self.version += 1

    def _start_loading(self, node: Node, seconds: float) -> None:
        node.ready_at = self.now + seconds
        self._loading.add(node.view.peer)

    def _finish_loading(self) -> None:
        for name in [name for name in sorted(self._loading) if self.nodes[name].ready_at <= self.now]:
            node = self.nodes[name]
            self._loading.discard(name)
            self.known.add(node.view, -1)
            node.view = replace(node.view, serving=True)
            self.known.add(node.view)
            self.served.add(node.view)
            self.version += 1

    def _die(self, name: str) -> None:
        node = self.nodes.pop(name)
        self._loading.discard(name)
        if node.view.serving:
            self.served.add(node.view, -1)
        self._forgotten.append((self.now + NOTICE_SECONDS, node.view))

    def _poisson(self, mean: float) -> int:
        return int(np.random.default_rng(self.world.getrandbits(32)).poisson(mean))

    def _timed(self, decide: Callable[[], Span | None]) -> Span | None:
        began = time.thread_time()
        span = decide()
        self.decisions.append(time.thread_time() - began)
        return span


def best_uniform(size: int, seed: int, choices: Sequence[int] = (4, 5, 8, 10, 16, 20)) -> UniformSplit:
    """The uniform split whose number of parts gives the highest bottleneck before anything happens."""

    def bottleneck(stages: int) -> float:
        swarm = Swarm(UniformSplit(stages), size, random.Random(seed), random.Random(seed))
        swarm.fill()
        return float(swarm.served.rates.min())

    return UniformSplit(max(choices, key=bottleneck))
