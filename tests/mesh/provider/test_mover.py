"""When a provider leaves its blocks, and when it had better stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from mesh.identity import Identity
from mesh.provider.placement import rebalancer as module
from mesh.provider.placement.rebalancer import Rebalancer
from mesh.swarm.view import ProviderView
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.messages import CONTROL_PROTOCOL
from shards.model.span import Span

pytestmark = pytest.mark.timeout(20)

FIRST, SECOND = Span(0, 4), Span(4, 8)


class Swarm:
    """Two replicas of the first half, of which we are one, and a second half that is slow or nobody's."""

    def __init__(self, me: MemoryTransport, other: MemoryTransport) -> None:
        self.me, self.other = me, other
        self.sessions = 0
        self.told: list[Span | None] = []
        self.fetched: list[Span] = []
        self.views = [
            ProviderView(other.peer_id, FIRST, 400.0),
            ProviderView(me.peer_id, FIRST, 400.0, max_blocks=4),
            ProviderView("slow", SECOND, 40.0),
        ]
        self.once_told: Callable[[], None] = lambda: None
        self.looked = asyncio.Event()
        self.mover = Rebalancer(
            8, share=4, interval=0.02, transport=me, look=self._look, announce=self._announce, fetch=self._fetch
        )

    async def _look(self, span: Span) -> list[ProviderView]:
        self.looked.set()
        await asyncio.sleep(0)
        return list(self.views)

    async def _announce(self) -> None:
        self.told.append(self.mover.going)
        self.once_told()

    async def _fetch(self, span: Span) -> None:
        assert self.mover.going is None, "it still serves"
        self.fetched.append(span)

    async def run(self, seconds: float = 5.0) -> Span:
        async with asyncio.timeout(seconds):
            return await self.mover.needed_elsewhere(FIRST, lambda: self.sessions)


@pytest.fixture
async def swarm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Swarm]:
    monkeypatch.setattr(module, "VISIBLE_SECONDS", 0.01)
    monkeypatch.setattr(module, "GROWING_SECONDS", 0.01)
    network = MemoryNetwork()
    me, other = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))

    async def listen(channel: Channel) -> None:
        await channel.receive()

    async with me, other:
        await other.serve(CONTROL_PROTOCOL, listen)
        yield Swarm(me, other)


async def test_it_goes_where_the_swarm_is_weak_once_others_can_see_it(swarm: Swarm) -> None:
    assert await swarm.run() == SECOND
    assert swarm.fetched == [SECOND]
    assert swarm.told == [SECOND]
    assert swarm.mover.was_complete


async def test_it_closes_a_gap_and_does_not_wait_for_sessions_that_cannot_go_on(swarm: Swarm) -> None:
    swarm.views = swarm.views[:2]
    swarm.sessions = 3
    assert await swarm.run() == SECOND
    assert not swarm.mover.was_complete


async def stays(swarm: Swarm) -> None:
    """It decided to go, and then not to."""
    with pytest.raises(TimeoutError):
        await swarm.run(seconds=0.7)
    assert swarm.told[:2] == [SECOND, None]
    assert swarm.mover.going is None


async def test_it_stays_when_the_replica_it_relies_on_does_not_answer(swarm: Swarm) -> None:
    swarm.views[0] = replace(swarm.views[0], peer="dead")
    await stays(swarm)


async def test_it_stays_when_the_other_replica_leaves_at_the_same_time(swarm: Swarm) -> None:
    def other_leaves() -> None:
        going = swarm.mover.going is not None
        swarm.views[0] = replace(swarm.views[0], span=SECOND if going else FIRST, serving=not going)

    swarm.once_told = other_leaves
    await stays(swarm)


async def test_it_stays_when_help_came_meanwhile(swarm: Swarm) -> None:
    swarm.once_told = lambda: swarm.views.append(ProviderView("fast", SECOND, 4000.0, serving=False))
    await stays(swarm)


async def test_running_sessions_are_waited_for(swarm: Swarm) -> None:
    swarm.sessions = 1
    running = asyncio.create_task(swarm.run(seconds=10.0))
    while not swarm.told:
        swarm.looked.clear()
        await swarm.looked.wait()
    swarm.looked.clear()
    await swarm.looked.wait()
    assert not running.done()
    swarm.sessions = 0
    assert await running == SECOND


async def test_one_look_is_not_enough(swarm: Swarm) -> None:
    views = list(swarm.views)
    swarm.views = views[:2]  # the second half's record is late, once
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(swarm.run())
        await swarm.looked.wait()
        swarm.views = [*views[:2], ProviderView("late", SECOND, 400.0)]
        for _ in range(5):
            swarm.looked.clear()
            await swarm.looked.wait()
        assert swarm.told == []
        task.cancel()
