"""Where all places for channels are taken, whoever has most gives up the quietest."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mesh.errors import PeerUnreachable
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.transport.streams import FrameChannel
from mesh.wire.frame import MAGIC, PREFIX, VERSION, Frame

PROTOCOL = "/test/1"


class House:
    """A node with eight places, and others on the same network."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._network = MemoryNetwork()

    async def node(self, name: str) -> MemoryTransport:
        settings = TransportSettings(inbound=8, inbound_per_peer=8)
        return await self._stack.enter_async_context(MemoryTransport(name, self._network, settings=settings))

    async def enter(self, guest: MemoryTransport, count: int) -> list[Channel]:
        return [await guest.open("host", PROTOCOL) for _ in range(count)]


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


async def alive(channel: Channel) -> bool:
    try:
        async with asyncio.timeout(1):
            await channel.send(Frame(b"ping"))
            return await channel.receive() is not None
    except Exception:  # noqa: BLE001 - however it ended
        return False


async def test_a_newcomer_gets_the_quietest_place_of_who_has_most() -> None:
    async with AsyncExitStack() as stack:
        house = House(stack)
        host, greedy, modest, honest = [await house.node(name) for name in ("host", "greedy", "modest", "honest")]
        await host.serve(PROTOCOL, echo)
        many = await house.enter(greedy, 6)
        few = await house.enter(modest, 2)
        for channel in (*many[:2], *many[3:]):
            assert await alive(channel)

        (newcomer,) = await house.enter(honest, 1)

        assert await alive(newcomer)
        assert [await alive(channel) for channel in many] == [True, True, False, True, True, True]
        assert all([await alive(channel) for channel in few])


async def test_who_has_as_many_as_others_gets_no_more() -> None:
    async with AsyncExitStack() as stack:
        house = House(stack)
        host, one, other = [await house.node(name) for name in ("host", "one", "other")]
        await host.serve(PROTOCOL, echo)
        first, second = await house.enter(one, 4), await house.enter(other, 4)

        (surplus,) = await house.enter(other, 1)

        assert not await alive(surplus)
        assert all([await alive(channel) for channel in (*first, *second)])


async def test_many_names_with_one_channel_each_keep_nobody_with_none_from_a_place_of_the_greedy() -> None:
    async with AsyncExitStack() as stack:
        house = House(stack)
        host = await house.node("host")
        await host.serve(PROTOCOL, echo)
        greedy = await house.node("greedy")
        await house.enter(greedy, 8)
        for number in range(8):
            (channel,) = await house.enter(await house.node(f"name {number}"), 1)
            assert await alive(channel) == (number < 7), "until nobody has more than one above the newcomer"


async def test_what_was_on_its_way_on_a_channel_that_was_broken_off_is_not_counted_against_others() -> None:
    frame = PREFIX.pack(MAGIC, VERSION, 0, 1, 1_000_000) + b"h"
    channels = Channels(TransportSettings(unfinished_per_peer=300_000))

    def opened() -> tuple[FrameChannel, asyncio.StreamReader]:
        reader = asyncio.StreamReader()
        return channels.opened("guest", reader, Silent()), reader  # type: ignore[arg-type]

    slow, slow_bytes = opened()
    slow_bytes.feed_data(frame + bytes(100_000))
    receiving = asyncio.create_task(slow.receive())
    await asyncio.sleep(0.01)
    assert channels.unfinished == 100_000
    slow_bytes.feed_data(bytes(100_000))  # it is there, and whoever reads has not had a turn
    slow.abort("too slow")
    with pytest.raises(PeerUnreachable):
        await receiving
    assert channels.unfinished == 0

    honest, honest_bytes = opened()
    honest_bytes.feed_data(frame + bytes(290_000))
    receiving = asyncio.create_task(honest.receive())
    await asyncio.sleep(0.01)
    assert not honest.closed
    receiving.cancel()
    await asyncio.wait({receiving})
    await channels.aclose()


class Silent:
    """The writing half of a connection of which only the reading one matters."""

    def __init__(self) -> None:
        self.transport = self

    def set_write_buffer_limits(self, *, high: int) -> None:
        """As a transport's."""

    def abort(self) -> None:
        """As a transport's."""
