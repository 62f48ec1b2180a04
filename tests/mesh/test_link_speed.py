"""How fast a link is: measured by its user, bounded by who is asked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerError, PeerTimeout, PeerUnreachable
from mesh.identity import Identity
from mesh.provider.uplink import Uplink
from mesh.transport.link_speed import (
    BYTES_AT_ONCE,
    MAX_PROBE,
    SPEED_PROTOCOL,
    link_speed,
    speed_handler,
    usual_link_speed,
)
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel, Handler
from mesh.wire.frame import Frame

pytestmark = pytest.mark.timeout(30)


def carrying(bytes_per_second: float, *, round_trip: float = 0.0) -> Handler:
    """The other end of a line of that speed."""

    async def answer(channel: Channel) -> None:
        while (frame := await channel.receive()) is not None:
            await asyncio.sleep(round_trip + len(frame.payload) / bytes_per_second)
            await channel.send(Frame(b"", b""))

    return answer


async def silent(channel: Channel) -> None:
    await asyncio.sleep(60)


async def curt(channel: Channel) -> None:
    await channel.receive()


@asynccontextmanager
async def peers(*handlers: Handler) -> AsyncIterator[tuple[MemoryTransport, list[str]]]:
    """We, and those who answer so."""
    network = MemoryNetwork()
    we, *others = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(len(handlers) + 1))
    async with we:
        for other, handler in zip(others, handlers, strict=True):
            await other.__aenter__()
            await other.serve(SPEED_PROTOCOL, handler)
        try:
            yield we, [other.peer_id for other in others]
        finally:
            for other in others:
                await other.__aexit__(None, None, None)


async def test_a_slow_line_is_measured_whatever_its_round_trip() -> None:
    async with peers(carrying(400_000), carrying(400_000, round_trip=0.1)) as (we, (near, far)):
        assert await link_speed(we, near) == pytest.approx(400_000, rel=0.3)
        assert await link_speed(we, far) == pytest.approx(400_000, rel=0.3)


async def test_a_very_slow_line_costs_few_bytes() -> None:
    got: list[int] = []

    async def answer(channel: Channel) -> None:
        while (frame := await channel.receive()) is not None:
            got.append(len(frame.payload))
            await asyncio.sleep(len(frame.payload) / 10_000)
            await channel.send(Frame(b"", b""))

    async with peers(answer) as (we, (peer,)):
        assert await link_speed(we, peer) == pytest.approx(10_000, rel=0.2)
    assert sum(got) == 16 * 1024


async def test_what_is_too_fast_to_tell_is_infinite() -> None:
    async with peers(speed_handler()) as (we, (peer,)):
        assert await link_speed(we, peer) > 50e6


async def test_a_peer_that_does_not_answer_is_given_up() -> None:
    async with peers(silent, curt) as (we, (mute, leaving)):
        with pytest.raises(PeerTimeout):
            await link_speed(we, mute, timeout=0.2)
        with pytest.raises(PeerError):
            await link_speed(we, leaving)
        with pytest.raises(PeerUnreachable):
            await link_speed(we, Identity.generate().peer_id)


async def test_nobody_sends_more_for_this_than_he_may() -> None:
    async with peers(speed_handler(clock=lambda: 0.0)) as (we, (peer,)):
        sent = 0
        for _ in range(3):
            channel = await we.open(peer, SPEED_PROTOCOL)
            try:
                for _ in range(2 * BYTES_AT_ONCE // MAX_PROBE):
                    await channel.send(Frame(b"", bytes(MAX_PROBE)))
                    if await channel.receive() is None:
                        break
                    sent += MAX_PROBE
            finally:
                await channel.aclose()
        assert BYTES_AT_ONCE // 2 < sent <= BYTES_AT_ONCE + MAX_PROBE


async def test_what_a_line_lets_through_at_once_is_not_its_speed() -> None:
    """A shaper passes a burst at wire speed, and only then its rate."""
    tokens = [40_000.0]

    async def answer(channel: Channel) -> None:
        while (frame := await channel.receive()) is not None:
            free = min(tokens[0], len(frame.payload))
            tokens[0] -= free
            await asyncio.sleep((len(frame.payload) - free) / 300_000)
            await channel.send(Frame(b"", b""))

    async with peers(answer) as (we, (peer,)):
        assert await link_speed(we, peer) < 900_000


async def test_what_was_seen_counts_where_the_rest_does_not_come() -> None:
    async def fades(channel: Channel) -> None:
        for _ in range(3):
            frame = await channel.receive()
            assert frame is not None
            await asyncio.sleep(len(frame.payload) / 100_000)
            await channel.send(Frame(b"", b""))

    async with peers(fades, carrying(1000)) as (we, (fading, crawling)):
        assert await link_speed(we, fading) == pytest.approx(100_000, rel=0.3)
        assert 0 < await link_speed(we, crawling, timeout=0.5) < 50_000


async def test_the_middle_one_of_the_links_counts_and_who_is_gone_does_not() -> None:
    gone = Identity.generate().peer_id
    async with peers(carrying(100_000), carrying(800_000), speed_handler()) as (we, others):
        assert await usual_link_speed(we, [gone, *others]) == pytest.approx(800_000, rel=0.3)
        assert await usual_link_speed(we, [gone, *others[:2]]) == pytest.approx(800_000, rel=0.3)
        assert await usual_link_speed(we, [gone]) == 0.0
        assert await usual_link_speed(we, []) == 0.0


async def test_an_uplink_says_tokens_and_keeps_what_it_knew() -> None:
    async with peers(carrying(400_000)) as (we, others):
        known = list(others)

        async def look() -> list[str]:
            return known

        uplink = Uplink(we, 4096, look)
        assert uplink.rate == 0.0
        await uplink.measure()
        assert uplink.rate == pytest.approx(400_000 / 4096, rel=0.3)
        before = uplink.rate
        known.clear()
        await uplink.measure()
        assert uplink.rate == before


async def test_a_link_without_bounds_is_a_number_all_the_same() -> None:
    async with peers(speed_handler()) as (we, others):

        async def look() -> list[str]:
            return others

        uplink = Uplink(we, 1, look)
        await uplink.measure()
        assert 0 < uplink.rate < math.inf
