"""Which path a channel takes: direct where the peer can be dialled, else the control path; none is ever dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerTimeout, PeerUnreachable
from mesh.identity import Identity
from mesh.transport.choosing import ChoosingTransport
from mesh.transport.direct.channel import DirectChannel
from mesh.transport.direct.dialler import TurnedAway
from mesh.transport.direct.transport import DirectTransport
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.pairs_service import ask_pairs, pairs_handler
from mesh.transport.port import Channel
from mesh.transport.streams import FrameChannel
from mesh.wire.frame import Frame
from mesh.wire.pairs import PAIRS_PROTOCOL, PairState
from tests.mesh.direct.duo import PROTOCOL, Side, duo, echo

pytestmark = pytest.mark.timeout(30)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def choosing() -> AsyncIterator[tuple[ChoosingTransport, ChoosingTransport, Side, Side, Clock]]:
    clock = Clock()
    async with (
        duo() as (a, b, _),
        ChoosingTransport(a.direct, a.control, clock=clock, direct_seconds=1.0, head_start=0.8) as from_a,
        ChoosingTransport(b.direct, b.control, clock=clock, head_start=0.8) as from_b,
    ):
        yield from_a, from_b, a, b, clock


async def talk(channel: Channel, text: bytes) -> None:
    await channel.send(Frame(text, text))
    assert await channel.receive() == Frame(text, bytearray(text))


async def test_a_peer_that_can_be_dialled_is_dialled() -> None:
    async with choosing() as (from_a, from_b, _, b, _):
        await from_b.serve(PROTOCOL, echo)
        channel = await from_a.open(b.peer_id, PROTOCOL)
        assert isinstance(channel, DirectChannel)
        await talk(channel, b"direct")
        (pair,) = from_a.pairs()
        assert (pair.peer, pair.path, pair.channels, pair.problem) == (b.peer_id, "direct", 1, None)
        assert pair.direct_round_trip is not None
        assert pair.control_round_trip is not None
        assert [(pair.path, pair.channels) for pair in from_b.pairs()] == [("direct", 1)]
        await channel.aclose()
        assert from_a.pairs() == []


async def test_a_peer_without_a_direct_port_is_reached_over_the_control_path() -> None:
    network = MemoryNetwork()
    identities = [Identity.generate() for _ in range(2)]
    controls = [MemoryTransport(identity.peer_id, network) for identity in identities]
    async with controls[0], controls[1]:
        a = DirectTransport(identities[0], controls[0])
        b = DirectTransport(identities[1], controls[1], hosts=())
        async with a, b, ChoosingTransport(a, controls[0]) as from_a, ChoosingTransport(b, controls[1]) as from_b:
            await from_a.serve(PROTOCOL, echo)
            await from_b.serve(PROTOCOL, echo)
            there = await from_a.open(b.peer_id, PROTOCOL)
            back = await from_b.open(a.peer_id, PROTOCOL)
            assert isinstance(there, FrameChannel)
            assert isinstance(back, DirectChannel)  # which can dial all the same
            await talk(there, b"there")
            await talk(back, b"back")
            (pair,) = from_a.pairs()
            assert pair.problem is not None
            assert "no direct port" in pair.problem


async def test_a_channel_stays_where_it_is_when_the_path_changes() -> None:
    async with choosing() as (from_a, from_b, a, b, clock):
        await from_b.serve(PROTOCOL, echo)
        address = b.address
        b.direct._addresses = lambda: ["127.0.0.9"]  # nobody listens there
        first = await from_a.open(b.peer_id, PROTOCOL)
        assert isinstance(first, FrameChannel)
        (pair,) = from_a.pairs()
        assert pair.path == "control"
        assert pair.problem is not None

        b.direct._addresses = lambda: [address[0]]
        again = await from_a.open(b.peer_id, PROTOCOL)
        assert isinstance(again, FrameChannel)  # it is not tried at every turn

        clock.now += 6
        second = await from_a.open(b.peer_id, PROTOCOL)
        assert isinstance(second, DirectChannel)
        for channel in (first, again, second):
            await talk(channel, b"all are good")
        (pair,) = from_a.pairs()
        assert (pair.path, pair.channels, pair.problem) == ("direct", 3, None)

        # And back: the port is gone, but what is open on either path goes on.
        await b.direct._door.aclose()
        a.direct._dialler.acquaintances.clear()
        third = await from_a.open(b.peer_id, PROTOCOL)
        assert isinstance(third, FrameChannel)
        for channel in (first, again, second, third):
            await talk(channel, b"still")


async def test_a_path_that_was_measured_to_be_slower_is_left_until_it_is_measured_again() -> None:
    async with choosing() as (from_a, from_b, a, b, clock):
        await from_b.serve(PROTOCOL, echo)
        for _ in range(3):
            a.direct.on_round_trip(b.peer_id, True, 0.2)
            a.direct.on_round_trip(b.peer_id, False, 0.02)
        assert isinstance(await from_a.open(b.peer_id, PROTOCOL), FrameChannel)
        clock.now += 61
        assert isinstance(await from_a.open(b.peer_id, PROTOCOL), DirectChannel)


async def test_a_direct_path_that_swallows_everything_costs_its_head_start_once() -> None:
    async def swallow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.transport.abort()

    gone = asyncio.Event()
    async with (
        choosing() as (from_a, from_b, _, b, _),
        await asyncio.start_server(swallow, "127.0.0.1", 0) as hole,
    ):
        await from_b.serve(PROTOCOL, echo)
        known, _ = await from_a._direct._dialler.meet(b.peer_id)
        port = hole.sockets[0].getsockname()[1]
        known.introduced = type(known.introduced)(
            known.introduced.certificate, (("127.0.0.1", port),), known.introduced.token, 60.0
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert isinstance(await from_a.open(b.peer_id, PROTOCOL), FrameChannel)
        assert 0.7 < loop.time() - began < 5
        await asyncio.wait(from_a._attempts)  # the attempt goes on beside it, and is given up
        began = loop.time()
        assert isinstance(await from_a.open(b.peer_id, PROTOCOL), FrameChannel)
        assert loop.time() - began < 0.7
        gone.set()


async def test_only_the_protocols_that_were_named_go_direct() -> None:
    async with duo() as (a, b, _):
        from_a = ChoosingTransport(a.direct, a.control, protocols={"/mesh/ring/1"})
        from_b = ChoosingTransport(b.direct, b.control, protocols={"/mesh/ring/1"})
        await from_b.serve("/mesh/ring/1", echo)
        await from_b.serve("/mesh/control/1", echo)
        assert isinstance(await from_a.open(b.peer_id, "/mesh/ring/1"), DirectChannel)
        assert isinstance(await from_a.open(b.peer_id, "/mesh/control/1"), FrameChannel)
        with pytest.raises(TurnedAway):
            await a.direct.open(b.peer_id, "/mesh/control/1")


async def test_a_peer_that_is_gone_is_unreachable_and_tried_afresh_when_it_is_back() -> None:
    async with choosing() as (from_a, from_b, _, _, _):
        await from_b.serve(PROTOCOL, echo)
        nobody = Identity.generate().peer_id
        with pytest.raises((PeerUnreachable, PeerTimeout)):
            await from_a.open(nobody, PROTOCOL, timeout=2)
        assert from_a._paths.wants_direct(nobody, 1000.0)


async def test_another_node_tells_which_way_it_reaches_its_peers() -> None:
    async with choosing() as (from_a, from_b, a, b, _):
        await from_b.serve(PROTOCOL, echo)

        async def pairs() -> list[PairState]:
            return [PairState(p.peer, "direct", p.channels, None, 0.5, None) for p in from_b.pairs()]

        await from_b.serve(PAIRS_PROTOCOL, pairs_handler(pairs))
        channel = await from_a.open(b.peer_id, PROTOCOL)
        await talk(channel, b"open")
        (pair,) = [pair for pair in await ask_pairs(a.control, b.peer_id) if pair.channels]
        assert pair.peer == a.peer_id
        assert pair.way == "direct"
