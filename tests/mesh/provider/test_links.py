"""Links to the next hop: opened when a session is admitted, used by its frames."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import MeshError
from mesh.identity import Identity
from mesh.provider.stage.links import Links
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from mesh.wire.messages import RING_PROTOCOL


async def test_a_prepared_link_is_open_before_the_first_frame_and_carries_it() -> None:
    network = MemoryNetwork()
    us, next_hop = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))
    opened: asyncio.Queue[Channel] = asyncio.Queue()
    received: asyncio.Queue[Frame] = asyncio.Queue()

    async def serve(channel: Channel) -> None:
        opened.put_nowait(channel)
        while (frame := await channel.receive()) is not None:
            received.put_nowait(frame)

    async with us, next_hop, asyncio.TaskGroup() as tasks, asyncio.timeout(10):
        await next_hop.serve(RING_PROTOCOL, serve)
        links = Links(us, tasks, lambda peer, error: None)
        links.prepare(next_hop.peer_id)
        await opened.get()
        links.prepare(next_hop.peer_id)
        links.push(next_hop.peer_id, Frame(b"header", b"payload"))
        assert (await received.get()).payload == b"payload"
        assert opened.empty()
        assert len(links) == 1
        for _ in range(20):
            links.close_unused(lambda peer: False)


async def test_a_neighbour_that_cannot_be_reached_is_known_before_anything_is_handed_over() -> None:
    us = MemoryTransport(Identity.generate().peer_id, MemoryNetwork())
    stranger = Identity.generate().peer_id
    broken: asyncio.Queue[str] = asyncio.Queue()

    def lost(peer: str, error: MeshError) -> None:
        broken.put_nowait(peer)

    async with us, asyncio.TaskGroup() as tasks, asyncio.timeout(10):
        links = Links(us, tasks, lost)
        links.prepare(stranger)
        assert await broken.get() == stranger
        assert len(links) == 0


async def test_a_link_says_when_it_is_full_and_when_it_is_given_up_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.provider.stage.links.ROOM_BYTES", 1000)
    network = MemoryNetwork()
    us, next_hop = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))
    taking = asyncio.Event()
    told: list[bool] = []

    async def serve(channel: Channel) -> None:
        await taking.wait()
        while await channel.receive() is not None:
            pass

    async with us, next_hop, asyncio.TaskGroup() as tasks, asyncio.timeout(10):
        await next_hop.serve(RING_PROTOCOL, serve)
        links = Links(us, tasks, lambda peer, error: None, lambda peer, full: told.append(full))
        for _ in range(3):
            links.push(next_hop.peer_id, Frame(b"header", b"x" * 400))
        assert told == [True], "once"
        taking.set()
        while told != [True, False]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        taking.clear()
        for _ in range(5000):
            links.push(next_hop.peer_id, Frame(b"header", b"x" * 4000))
        assert told[-1] is True
        for _ in range(20):
            links.close_unused(lambda peer: False)
        assert told[-1] is False
