"""Where all places for channels are taken, whoever has most gives up the quietest."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from mesh.transport.channels import TransportSettings
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.frame import Frame

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
