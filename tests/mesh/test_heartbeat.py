"""A watched channel breaks when its peer falls silent, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerUnreachable, ProtocolViolation
from mesh.identity import Identity
from mesh.transport.heartbeat import (
    HEARTBEAT_PROTOCOL,
    HeartbeatSettings,
    HeartbeatTransport,
    answer_heartbeats,
)
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel, Handler
from mesh.wire.frame import Frame
from mesh.wire.messages import Ping, Pong, decode, encode

WATCHED, OTHER = "/mesh/test/1", "/mesh/other/1"
QUICK = HeartbeatSettings(interval=0.01, tick=0.02, silent_ticks=5)


@asynccontextmanager
async def pair(
    handler: Handler | None, silent: Callable[[str], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[HeartbeatTransport, str]]:
    """Us, and a peer that serves two protocols and answers heartbeats by `handler` (None: not at all)."""
    network = MemoryNetwork()
    ours, theirs = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))

    async def stay(channel: Channel) -> None:
        while await channel.receive() is not None:
            pass

    beating = HeartbeatTransport(ours, protocols={WATCHED}, on_silent=silent, settings=QUICK)
    async with ours, theirs, beating as us:
        await theirs.serve(WATCHED, stay)
        await theirs.serve(OTHER, stay)
        if handler is not None:
            await theirs.serve(HEARTBEAT_PROTOCOL, handler)
        yield us, theirs.peer_id


class Answers:
    """Answers heartbeats until it is told to fall silent."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self.channels = 0
        self.asked = 0
        self.beating = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, channel: Channel) -> None:
        self.channels += 1
        try:
            while (frame := await channel.receive()) is not None:
                message = decode(frame)
                assert isinstance(message, Ping)
                if not self.silent.is_set():
                    self.asked += 1
                    if self.asked >= 5:
                        self.beating.set()
                    await channel.send(encode(Pong(message.nonce)))
        finally:
            self.ended.set()


async def test_a_channel_breaks_when_its_peer_falls_silent() -> None:
    answers = Answers()
    async with pair(answers) as (us, peer), asyncio.timeout(10):
        channel = await us.open(peer, WATCHED)
        receiving = asyncio.create_task(channel.receive())
        await answers.beating.wait()
        assert not receiving.done()
        answers.silent.set()
        with pytest.raises(PeerUnreachable, match="silent"):
            await receiving
        with pytest.raises(PeerUnreachable, match="silent"):
            await channel.send(Frame(b"x"))


async def test_whoever_holds_the_connection_hears_of_the_silence() -> None:
    answers = Answers()
    answers.silent.set()
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with pair(answers, heard.put) as (us, peer), asyncio.timeout(10):
        channel = await us.open(peer, WATCHED)
        assert await heard.get() == peer
        with pytest.raises(PeerUnreachable, match="silent"):
            await channel.receive()


async def test_a_peer_that_answers_keeps_its_channels_and_one_exchange_serves_them_all() -> None:
    answers = Answers()
    async with pair(answers) as (us, peer), asyncio.timeout(10):
        channels = [await us.open(peer, WATCHED) for _ in range(3)]
        await answers.beating.wait()
        for channel in channels:
            await channel.send(Frame(b"x"))
        assert answers.channels == 1


async def test_the_exchange_ends_with_the_last_channel_and_begins_again_with_the_next() -> None:
    answers = Answers()
    async with pair(answers) as (us, peer), asyncio.timeout(10):
        channel = await us.open(peer, WATCHED)
        await answers.beating.wait()
        await channel.aclose()
        await answers.ended.wait()
        answers.beating.clear()
        await us.open(peer, WATCHED)
        await answers.beating.wait()
        assert answers.channels == 2


async def test_other_protocols_are_not_watched() -> None:
    answers = Answers()
    async with pair(answers) as (us, peer):
        channel = await us.open(peer, OTHER)
        await asyncio.sleep(5 * QUICK.interval)
        assert answers.channels == 0
        await channel.send(Frame(b"x"))


async def test_of_a_peer_that_knows_no_heartbeats_nothing_is_concluded() -> None:
    async with pair(None) as (us, peer):
        channel = await us.open(peer, WATCHED)
        await asyncio.sleep(2 * QUICK.tick * QUICK.silent_ticks)
        await channel.send(Frame(b"x"))


async def test_whoever_says_anything_else_to_the_answering_side_is_dropped() -> None:
    network = MemoryNetwork()
    ours, theirs = (MemoryTransport(Identity.generate().peer_id, network) for _ in range(2))
    async with ours, theirs, asyncio.timeout(10):
        await theirs.serve(HEARTBEAT_PROTOCOL, answer_heartbeats)
        channel = await ours.open(theirs.peer_id, HEARTBEAT_PROTOCOL)
        await channel.send(encode(Ping(7)))
        answer = await channel.receive()
        assert answer is not None
        assert decode(answer) == Pong(7)
        await channel.send(encode(Pong(7)))
        with pytest.raises((PeerUnreachable, ProtocolViolation)):
            await channel.receive()
