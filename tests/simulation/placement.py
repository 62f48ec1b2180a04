"""Placement by itself: many nodes come, go, load and move; the real `settle`, `Rebalancer` and what they decide with.

There are no sessions here and no bytes: a record is a view that becomes visible to others a little later, to each at
another time, and is believed until it expires.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from mesh.errors import PeerUnreachable
from mesh.provider.placement.rebalancer import Rebalancer
from mesh.swarm.placement import Claim, default_max_blocks, settle
from mesh.swarm.view import ProviderView, gaps
from shards.model.span import Span
from tests.simulation.loop import Clock, Machine, VirtualLoop, run_on
from tests.simulation.nature import nature

LIFETIME, ANNOUNCE_SECONDS, CLAIM_SECONDS, INTERVAL = 30.0, 8.0, 1.0, 8.0
SLOWEST = 1.5
"""Seconds until everybody has heard of an announcement, at most; a mover counts on two."""
GAP_SECONDS = 65.0
REST_SECONDS = 300.0


@dataclass(slots=True)
class PlacementResult:
    """What became of a seed."""

    seed: int
    nodes: int = 0
    came: int = 0
    went: int = 0
    moves: int = 0
    moves_checked: int = 0
    gap_seconds: int = 0
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Record:
    """An announcement: when others see it at the earliest, until when they believe it, and what it says."""

    visible: float
    expires: float
    state: str
    view: ProviderView


class Node:
    """One provider without its stage."""

    def __init__(self, swarm: PlacementSwarm, name: str, memory: int, offered: bool, rate: float) -> None:
        self.swarm = swarm
        self.peer_id = name
        self.memory = memory
        self.offered = offered
        self.rate = rate
        self.share = memory if offered else min(memory, default_max_blocks(swarm.n_blocks))
        self.span: Span | None = None
        self.loads: Span | None = None
        self.records: list[Record] = []
        """Its last announcements, the newest last: some see it later than others."""
        self.machine = Machine(name, swarm.loop, swarm.random, Clock())
        self.mover = Rebalancer(
            swarm.n_blocks,
            share=self.share,
            interval=INTERVAL,
            transport=self,
            look=self._look,
            announce=self._announce,
            fetch=self._fetch,
        )

    async def run(self) -> None:
        keeper = asyncio.create_task(self._keep_announcing())
        try:
            span = await self._choose()
            while True:
                self.loads = span
                await self._announce()
                await asyncio.sleep(0.3 * len(span))
                self.span, self.loads = span, None
                await self._announce()
                span = await self.mover.needed_elsewhere(span, lambda: 0)
                self.swarm.moved(self, span)
                self.span, self.mover.going = None, None
        finally:
            keeper.cancel()

    async def _choose(self) -> Span:
        """As `mesh join` claims its blocks."""
        claimed: Span | None = None
        steady = 0
        stages = 1 if self.offered else 3
        for _ in range(20):
            committed, claims = self.swarm.seen_by(self)
            span = settle(
                self.swarm.n_blocks, committed, claims, self.peer_id, self.share, stages=stages, fill=self.offered
            )
            steady = steady + 1 if span == claimed else 0
            if steady >= 2:
                break
            claimed = span
            self._publish("joining", span)
            await asyncio.sleep(CLAIM_SECONDS)
        return span

    # --- what the mover asks for ---

    async def open(self, peer: str, protocol: str, *, timeout: float = 10.0) -> Node:
        await asyncio.sleep(0.05)
        if peer not in self.swarm.nodes or self.swarm.nodes[peer].span is None:
            raise PeerUnreachable("it is gone", peer=peer)
        return self

    async def aclose(self) -> None:
        pass

    async def _look(self, span: Span) -> list[ProviderView]:
        await asyncio.sleep(0.02)
        committed, claims = self.swarm.seen_by(self)
        claimed = [ProviderView(claim.peer, claim.span, 1.0, serving=False) for claim in claims]
        return [*committed, *claimed, ProviderView(self.peer_id, span, self.rate, max_blocks=self.capacity)]

    async def _fetch(self, span: Span) -> None:
        await asyncio.sleep(0.1)

    async def _announce(self) -> None:
        going = self.mover.going or self.loads
        if going is not None:
            self._publish("loading", going)
        elif self.span is not None:
            self._publish("serving", self.span)

    # --- records ---

    @property
    def capacity(self) -> int:
        return self.memory if self.mover.was_complete else min(self.memory, self.share)

    def _publish(self, state: str, span: Span) -> None:
        now = self.swarm.loop.time()
        view = ProviderView(self.peer_id, span, self.rate, serving=state == "serving", max_blocks=self.capacity)
        self.records = [*self.records[-3:], Record(now, now + LIFETIME, state, view)]

    async def _keep_announcing(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            await self._announce()


class PlacementSwarm:
    """The nodes of one seed, and who sees what."""

    def __init__(self, loop: VirtualLoop, seed: int, result: PlacementResult) -> None:
        self.loop = loop
        self.random = Random(f"{seed}/placement")
        self.result = result
        self.n_blocks = self.random.choice((4, 8, 12, 24))
        self.nodes: dict[str, Node] = {}
        self._graves: dict[str, list[Record]] = {}
        """What those who have gone had announced."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lost_at = [-1e9] * self.n_blocks
        self._lags: Counter[tuple[str, str]] = Counter()

    def seen_by(self, node: Node) -> tuple[list[ProviderView], list[Claim]]:
        """What a node knows of the others: of each the newest record that has reached it."""
        now = self.loop.time()
        committed, claims = [], []
        for peer, records in [*((p, n.records) for p, n in self.nodes.items()), *self._graves.items()]:
            if peer == node.peer_id:
                continue
            lag = self._lags.setdefault((node.peer_id, peer), self.random.uniform(0.0, SLOWEST))
            reached = [record for record in records if record.visible + lag <= now < record.expires]
            if not reached:
                continue
            record = reached[-1]
            if record.state == "joining":
                claims.append(Claim(peer, record.view.span))
            else:
                committed.append(record.view)
        return committed, claims

    @property
    def served(self) -> list[ProviderView]:
        return [ProviderView(n.peer_id, n.span, n.rate) for n in self.nodes.values() if n.span is not None]

    def moved(self, node: Node, target: Span) -> None:
        """A node leaves its blocks: others must serve them, or there was a gap anyway."""
        assert node.span is not None
        self.result.moves += 1
        before = gaps(self.n_blocks, self.served)
        after = gaps(self.n_blocks, [view for view in self.served if view.peer != node.peer_id])
        opened = [block for gap in after for block in gap]
        recent = any(self._lost_at[block] > self.loop.time() - GAP_SECONDS for block in opened)
        if not before:
            self.result.moves_checked += 1
            if opened and not recent:
                self.result.broken.append(
                    f"{self.loop.time():.1f}: {node.peer_id} leaves {node.span} for {target} and opens a gap at {after}"
                )

    def come(self) -> None:
        number = self.result.came
        self.result.came += 1
        memory = self.random.randint(-(-self.n_blocks // 4), self.n_blocks)
        # Names in no order, since claims are settled by name.
        name = f"{self.random.randrange(1000):03d}-{number}"
        node = Node(self, name, memory, self.random.random() < 0.5, self.random.choice((20.0, 100.0, 800.0)))
        self.nodes[name] = node
        self._tasks[name] = node.machine.spawn(node.run(), name)

    def go(self) -> None:
        """Somebody is gone without a word."""
        if not self.nodes:
            return
        name = self.random.choice(list(self.nodes))
        node = self.nodes.pop(name)
        self.result.went += 1
        self._tasks.pop(name).cancel()
        node.machine.end()
        self._graves[name] = node.records
        for block in node.span or ():
            self._lost_at[block] = self.loop.time()

    async def main(self) -> None:
        """Churn, then rest."""
        random = self.random
        for _ in range(random.randint(3, 24)):
            self.come()
            await asyncio.sleep(random.choice((0.0, 0.0, 0.5, 5.0)))
        for _ in range(random.randint(5, 25)):
            await asyncio.sleep(random.choice((0.1, 2.0, 12.0, 40.0)))
            if random.random() < 0.5 and len(self.nodes) > 2:
                self.go()
            else:
                self.come()
            self.result.gap_seconds += bool(gaps(self.n_blocks, self.served))
        deadline = self.loop.time() + REST_SECONDS
        while gaps(self.n_blocks, self.served) and self.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        await asyncio.sleep(60.0)  # and none opens again
        self.result.nodes = len(self.nodes)
        room = sum(min(node.capacity, self.n_blocks) for node in self.nodes.values())
        missing = gaps(self.n_blocks, self.served)
        if missing and room >= self.n_blocks:
            self.result.broken.append(f"blocks {missing} are missing, with room for {room} of {self.n_blocks}")
        for task in self._tasks.values():
            task.cancel()
        await asyncio.sleep(5.0)


def simulate_placement(seed: int) -> PlacementResult:
    """Run one seed."""
    result = PlacementResult(seed)
    loop = VirtualLoop()
    with nature(loop, f"{seed}/placement") as errors:
        swarm = PlacementSwarm(loop, seed, result)
        run_on(loop, swarm.main())
    result.broken += [f"unhandled: {text}" for text in (*loop.failures, *errors.lines)]
    return result
