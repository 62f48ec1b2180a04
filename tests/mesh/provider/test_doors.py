"""One stage after another behind the same protocols: the next is served, visitors of the last are shown out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mesh.errors import PeerError
from mesh.identity import Identity
from mesh.provider.stage.restartable import RestartableTransport
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel, Handler
from mesh.wire.frame import Frame

PROTOCOL = "/mesh/test/1"


def saying(word: bytes) -> Handler:
    async def handler(channel: Channel) -> None:
        while await channel.receive() is not None:
            await channel.send(Frame(b"", word))

    return handler


async def ask(channel: Channel) -> bytes | None:
    await channel.send(Frame(b"", b"?"))
    frame = await channel.receive()
    return bytes(frame.payload) if frame is not None else None


@pytest.fixture
async def sides() -> AsyncIterator[tuple[RestartableTransport, MemoryTransport]]:
    network = MemoryNetwork()
    ours, theirs = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))
    async with ours, theirs, RestartableTransport(ours) as doors:
        yield doors, theirs


async def test_a_second_stage_is_served_where_the_first_was(
    sides: tuple[RestartableTransport, MemoryTransport],
) -> None:
    doors, client = sides
    await doors.serve(PROTOCOL, saying(b"first"))
    old = await client.open(doors.peer_id, PROTOCOL)
    assert await ask(old) == b"first"

    await doors.shut()

    try:
        assert await ask(old) is None
    except PeerError:
        pass  # it ended in the middle of the question
    await doors.serve(PROTOCOL, saying(b"second"))
    assert await ask(await client.open(doors.peer_id, PROTOCOL)) == b"second"


async def test_between_two_stages_a_channel_ends_at_once(sides: tuple[RestartableTransport, MemoryTransport]) -> None:
    doors, client = sides
    await doors.serve(PROTOCOL, saying(b"first"))
    await doors.shut()
    channel = await client.open(doors.peer_id, PROTOCOL)
    try:
        assert await channel.receive() is None
    except PeerError:
        pass
