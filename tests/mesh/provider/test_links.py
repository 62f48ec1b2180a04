"""Links to the next hop: opened when a session is admitted, used by its frames."""

from __future__ import annotations

import asyncio

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
