"""How channels end, on every transport: cleanly, abruptly, in the middle of a call; and what cannot be reached."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mesh.errors import (
    FrameTruncated,
    InternalError,
    PeerFailed,
    PeerTimeout,
    PeerUnreachable,
)
from mesh.identity import peer_id_of
from mesh.transport.port import Channel
from mesh.wire.frame import MAGIC, PREFIX, VERSION, Frame
from tests.conformance.transports import DEADLINE, MIB, PROTOCOL, Inbox, Pair, echo, pattern, receive

pytestmark = pytest.mark.timeout(30)


async def test_a_clean_close_is_the_end_and_not_an_error(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        channel = await a.open(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        for number in range(20):
            await channel.send(Frame(b"%d" % number, bytes(1000)))
        await channel.aclose()
        await channel.aclose()

        for _ in range(20):
            assert await receive(remote) is not None
        assert await receive(remote) is None
        assert await receive(remote) is None
        with pytest.raises(PeerUnreachable):
            await channel.send(Frame(b"late"))
        with pytest.raises(PeerUnreachable):
            await receive(channel)
        await remote.aclose()


async def test_what_a_handler_sent_last_arrives_though_it_left_input_unread(pair: Pair) -> None:
    async def answer_once(channel: Channel) -> None:
        await channel.receive()
        await channel.send(Frame(b"answer", pattern(MIB)))

    async with pair() as (a, b):
        await b.serve(PROTOCOL, answer_once)
        channel = await a.open(b.peer_id, PROTOCOL)
        for _ in range(10):
            await channel.send(Frame(b"question", bytes(1000)))
        frame = await receive(channel)
        assert frame is not None
        assert bytes(frame.payload) == pattern(MIB)
        assert await receive(channel) is None
        await channel.aclose()


async def test_an_abrupt_close_is_not_mistaken_for_a_clean_one(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        _, writer = await a.open_raw(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        writer.transport.abort()

        with pytest.raises((PeerUnreachable, FrameTruncated)):
            await receive(remote)


async def test_a_sender_notices_that_the_peer_is_gone(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        reader_writer = await a.open_raw(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        reader_writer[1].transport.abort()

        async def send_forever() -> None:
            while True:
                await remote.send(Frame(b"h", bytes(100_000)))

        with pytest.raises(PeerUnreachable):
            async with asyncio.timeout(DEADLINE):
                await send_forever()


async def test_a_protocol_that_nobody_serves_is_unreachable(pair: Pair) -> None:
    async with pair() as (a, b):
        await b.serve(PROTOCOL, echo)
        with pytest.raises(PeerUnreachable):
            await a.open(b.peer_id, "/mesh/other/1")


@pytest.mark.parametrize("peer", [peer_id_of(bytes(31) + b"\1"), "nonsense", "", "12D3KooW" + "1" * 200])
async def test_a_peer_that_nobody_knows_is_unreachable_in_time(pair: Pair, peer: str) -> None:
    async with pair() as (a, _):
        async with asyncio.timeout(4):
            with pytest.raises((PeerUnreachable, PeerTimeout)):
                await a.open(peer, PROTOCOL, timeout=3)


async def test_a_node_can_open_a_channel_to_itself(pair: Pair) -> None:
    async with pair() as (a, _):
        await a.serve(PROTOCOL, echo)
        channel = await a.open(a.peer_id, PROTOCOL)
        assert channel.peer == a.peer_id
        await channel.send(Frame(b"h", b"me"))
        assert await receive(channel) == Frame(b"h", bytearray(b"me"))
        await channel.aclose()


async def test_one_protocol_has_one_handler(pair: Pair) -> None:
    async with pair() as (a, _):
        await a.serve(PROTOCOL, echo)
        with pytest.raises(InternalError):
            await a.serve(PROTOCOL, echo)


async def test_a_handler_that_raises_stops_neither_the_transport_nor_others(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def fragile(channel: Channel) -> None:
        frame = await channel.receive()
        assert frame is not None
        if frame.header == b"bug":
            raise KeyError("a bug of ours")
        raise PeerFailed("the peer's fault", peer=channel.peer)

    caplog.set_level(logging.INFO, "mesh.transport")
    async with pair() as (a, b):
        await b.serve(PROTOCOL, fragile)
        await b.serve("/mesh/echo/1", echo)
        other = await a.open(b.peer_id, "/mesh/echo/1")
        for header in (b"bug", b"fault"):
            channel = await a.open(b.peer_id, PROTOCOL)
            await channel.send(Frame(header))
            with pytest.raises(PeerUnreachable):
                await receive(channel)
        await other.send(Frame(b"still", b"here"))
        assert await receive(other) == Frame(b"still", bytearray(b"here"))

    levels = {record.levelno: record.message for record in caplog.records if "bug" in record.message}
    assert set(levels) == {logging.ERROR}
    assert any("the peer's fault" in r.message and r.levelno == logging.INFO for r in caplog.records)


async def test_closing_ends_handlers_and_leaves_no_task(pair: Pair) -> None:
    before = asyncio.all_tasks()
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        channels = [await a.open(b.peer_id, PROTOCOL) for _ in range(5)]
        for _ in channels:
            await inbox.next()
    assert inbox.cancelled.is_set()
    for channel in channels:
        with pytest.raises(PeerUnreachable):
            await channel.send(Frame(b"h"))
        with pytest.raises(PeerUnreachable):
            await channel.receive()
    with pytest.raises(PeerUnreachable):
        await a.open(b.peer_id, PROTOCOL)
    assert asyncio.all_tasks() == before


async def test_a_cancelled_receive_loses_nothing(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        _, writer = await a.open_raw(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        whole = PREFIX.pack(MAGIC, VERSION, 0, 6, 100_000) + b"header" + pattern(100_000)
        for start, end in ((0, 0), (0, 5), (5, 14), (14, 60_000)):
            writer.write(whole[start:end])
            await writer.drain()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await remote.receive()
        writer.write(whole[60_000:])
        frame = await receive(remote)
        assert frame is not None
        assert (frame.header, bytes(frame.payload)) == (b"header", pattern(100_000))
        writer.close()
        await writer.wait_closed()


async def test_a_cancelled_send_leaves_no_half_frame_behind(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        channel = await a.open(b.peer_id, PROTOCOL)
        remote = await inbox.next()

        async def send_forever() -> None:
            while True:
                await channel.send(Frame(b"h", bytes(4 * MIB)))

        sender = asyncio.create_task(send_forever())
        done, _ = await asyncio.wait({sender}, timeout=1.0)
        assert not done
        sender.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender

        with pytest.raises(PeerUnreachable):
            await channel.send(Frame(b"h"))  # the rest of the frame will never come
        with pytest.raises((FrameTruncated, PeerUnreachable)):
            while True:
                frame = await receive(remote)
                assert frame is not None
                assert len(frame.payload) == 4 * MIB
