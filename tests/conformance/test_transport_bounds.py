"""What one peer may take of another, on every transport."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mesh.errors import (
    PeerUnreachable,
)
from mesh.transport.channels import TransportSettings
from mesh.transport.heartbeat import HeartbeatTransport
from mesh.transport.port import Channel
from mesh.wire.frame import MAGIC, PREFIX, VERSION, Frame
from tests.conformance.transports import DEADLINE, PROTOCOL, Inbox, Pair, Side, echo, receive

pytestmark = pytest.mark.timeout(30)


async def three_and_not_a_fourth(a: Side, b: Side, inbox: Inbox) -> list[Channel]:
    """Channels that are let in; one more is broken off."""
    kept = [await a.open(b.peer_id, PROTOCOL) for _ in range(3)]
    for _ in kept:
        await inbox.next()
    with pytest.raises(PeerUnreachable):
        surplus = await a.open(b.peer_id, PROTOCOL)
        await receive(surplus)
    return kept


async def test_too_many_channels_of_one_peer_are_broken_off(pair: Pair) -> None:
    inbox = Inbox()
    async with pair(TransportSettings(inbound_per_peer=3)) as (a, b):
        if isinstance(a, HeartbeatTransport):
            pytest.skip("its heartbeats take one of the places")
        await b.serve(PROTOCOL, inbox)
        kept = await three_and_not_a_fourth(a, b, inbox)

        inbox.release.set()  # the handlers return, and there is room again
        for channel in kept:
            assert await receive(channel) is None
            await channel.aclose()
        inbox.release.clear()
        async with asyncio.timeout(DEADLINE):
            while True:
                again = await a.open(b.peer_id, PROTOCOL)
                getter = asyncio.create_task(inbox.channels.get())
                ended = asyncio.create_task(again.receive())
                done, _ = await asyncio.wait({getter, ended}, return_when=asyncio.FIRST_COMPLETED)
                getter.cancel()
                ended.cancel()
                await asyncio.wait({getter, ended})
                if getter in done:
                    break
                assert isinstance(ended.exception(), PeerUnreachable)


async def test_who_opens_channels_too_fast_is_refused_for_a_while(pair: Pair) -> None:
    inbox = Inbox()
    async with pair(TransportSettings(openings_at_once=3, openings_per_second=0.01)) as (a, b):
        if isinstance(a, HeartbeatTransport):
            pytest.skip("its heartbeats are one of the openings")
        await b.serve(PROTOCOL, inbox)
        kept = await three_and_not_a_fourth(a, b, inbox)
        for channel in kept:
            assert not channel.closed  # type: ignore[attr-defined]


async def test_large_frames_that_do_not_end_are_broken_off_when_there_are_too_many_bytes_of_them(pair: Pair) -> None:
    async with pair(TransportSettings(unfinished_per_peer=300_000)) as (a, b):
        await b.serve(PROTOCOL, echo)
        slow_reader, slow_writer = await a.open_raw(b.peer_id, PROTOCOL)
        try:
            slow_writer.write(PREFIX.pack(MAGIC, VERSION, 0, 1, 1_000_000) + b"h" + bytes(200_000))
            await slow_writer.drain()
            async with asyncio.timeout(DEADLINE):
                try:
                    await three_large_frames(a, b)
                except PeerUnreachable:  # it overtook the slow frame, and so began first: that has come by now
                    await three_large_frames(a, b)
                with contextlib.suppress(OSError):
                    while await slow_reader.read(1 << 16):
                        pass
        finally:
            slow_writer.transport.abort()


async def three_large_frames(a: Side, b: Side) -> None:
    """Frames that are whole hold nothing any more, however many they are."""
    channel = await a.open(b.peer_id, PROTOCOL)
    for _ in range(3):
        await channel.send(Frame(b"h", bytes(250_000)))
        answer = await receive(channel)
        assert answer is not None and len(answer.payload) == 250_000
