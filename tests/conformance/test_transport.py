"""What every transport does alike: the in-memory twin, real p2pd daemons, direct TLS, and libp2p without a daemon.

Two pairs have a daemon at one end and none at the other.
"""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import (
    FrameTooLarge,
    FrameTruncated,
    MeshError,
    PeerUnreachable,
    ProtocolViolation,
)
from mesh.transport.channels import TransportSettings
from mesh.transport.streams import StreamSettings
from mesh.wire.frame import GOODBYE, MAGIC, PREFIX, VERSION, Frame, FrameLimits
from tests.conformance.transports import MIB, PROTOCOL, Inbox, Pair, echo, pattern, receive

pytestmark = pytest.mark.timeout(30)


async def test_frames_of_every_size_come_back_unchanged(pair: Pair) -> None:
    async with pair() as (a, b):
        await b.serve(PROTOCOL, echo)
        channel = await a.open(b.peer_id, PROTOCOL)
        for size in (0, 1, 11, 12, 13, 65_535, 65_536, 65_537, 262_145, MIB, 8 * MIB):
            sent = Frame(b"header %d" % size if size % 2 else b"", pattern(size))
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.send(sent))
                back = await receive(channel)
            assert back is not None
            assert (back.header, bytes(back.payload)) == (sent.header, sent.payload), size


async def test_a_payload_may_be_any_buffer(pair: Pair) -> None:
    async with pair() as (a, b):
        await b.serve(PROTOCOL, echo)
        channel = await a.open(b.peer_id, PROTOCOL)
        words = memoryview(pattern(8 * 1000)).cast("Q")
        for payload in (bytearray(b"abc"), memoryview(b"abc"), words):
            await channel.send(Frame(b"h", payload))
            back = await receive(channel)
            assert back is not None
            assert bytes(back.payload) == bytes(payload)


async def test_a_buffer_may_be_reused_once_send_has_returned(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        channel = await a.open(b.peer_id, PROTOCOL)
        buffer = bytearray(pattern(100_000))
        await channel.send(Frame(b"", buffer))
        buffer[:] = bytes(100_000)
        frame = await receive(await inbox.next())
        assert frame is not None
        assert bytes(frame.payload) == pattern(100_000)


async def test_a_thousand_frames_keep_their_order_both_ways(pair: Pair) -> None:
    async with pair() as (a, b):
        await b.serve(PROTOCOL, echo)
        channel = await a.open(b.peer_id, PROTOCOL)

        async def send_all() -> None:
            for number in range(1000):
                await channel.send(Frame(b"%d" % number, b"x" * (number % 97)))

        async with asyncio.TaskGroup() as group:
            group.create_task(send_all())
            back = [await receive(channel) for _ in range(1000)]
        assert [(f.header, len(f.payload)) for f in back if f] == [(b"%d" % n, n % 97) for n in range(1000)]


async def test_small_frames_that_are_tried_at_once_keep_their_order_among_those_that_wait(pair: Pair) -> None:
    async with pair() as (a, b):
        await b.serve(PROTOCOL, echo)
        channel = await a.open(b.peer_id, PROTOCOL)
        sizes = [1, 2000, 70_000, 12, 300_000, 5, 5, 40_000] * 20

        async def send() -> None:
            for number, size in enumerate(sizes):
                frame = Frame(b"%d" % number, pattern(size))
                if not channel.try_send(frame):
                    await channel.send(frame)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            for number, size in enumerate(sizes):
                back = await receive(channel)
                assert back is not None
                assert (back.header, bytes(back.payload)) == (b"%d" % number, pattern(size))


async def test_what_is_tried_while_the_peer_does_not_read_is_bounded(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        channel = await a.open(b.peer_id, PROTOCOL)
        frame, taken = Frame(b"", pattern(60_000)), 0
        while channel.try_send(frame):
            taken += 1
            await asyncio.sleep(0)
            assert taken * 60_000 < 64 * MIB


async def test_fifty_channels_at_once_do_not_mix(pair: Pair) -> None:
    async with pair() as (a, b):
        await b.serve(PROTOCOL, echo)

        async def talk(number: int) -> None:
            channel = await a.open(b.peer_id, PROTOCOL)
            for turn in range(5):
                await channel.send(Frame(b"%d/%d" % (number, turn), pattern(number * 1000)))
                frame = await receive(channel)
                assert frame is not None
                assert frame.header == b"%d/%d" % (number, turn)
                assert bytes(frame.payload) == pattern(number * 1000)
            await channel.aclose()

        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(talk(number))


async def test_each_side_knows_who_the_other_is(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        await a.serve(PROTOCOL, inbox)
        there = await a.open(b.peer_id, PROTOCOL)
        assert (there.peer, (await inbox.next()).peer) == (b.peer_id, a.peer_id)
        back = await b.open(a.peer_id, PROTOCOL)
        assert (back.peer, (await inbox.next()).peer) == (a.peer_id, b.peer_id)


async def test_a_sender_to_a_receiver_that_does_not_read_blocks(pair: Pair) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        channel = await a.open(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        total, sent = 160, 0

        async def send_all() -> None:
            nonlocal sent
            for number in range(total):
                await channel.send(Frame(b"%d" % number, bytes(MIB)))
                sent += 1

        sender = asyncio.create_task(send_all())
        done, _ = await asyncio.wait({sender}, timeout=2.0)
        assert not done
        assert sent < 64  # MiB on the way at most: the windows of libp2p and two sockets
        for number in range(total):
            frame = await receive(remote)
            assert frame is not None
            assert frame.header == b"%d" % number
        await sender


async def test_a_frame_over_the_limit_is_refused_before_anything_is_sent(pair: Pair) -> None:
    settings = TransportSettings(stream=StreamSettings(limits=FrameLimits(header=100, payload=1000)))
    async with pair(settings) as (a, b):
        await b.serve(PROTOCOL, echo)
        channel = await a.open(b.peer_id, PROTOCOL)
        with pytest.raises(FrameTooLarge) as caught:
            await channel.send(Frame(b"h" * 101))
        assert caught.value.peer == b.peer_id
        with pytest.raises(FrameTooLarge):
            await channel.send(Frame(b"h", bytes(1001)))
        with pytest.raises(FrameTooLarge):
            await channel.send(Frame(b"h", memoryview(bytes(1008)).cast("Q")))

        await channel.send(Frame(b"h" * 100, bytes(1000)))  # the channel is still good
        assert await receive(channel) == Frame(b"h" * 100, bytearray(1000))


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (PREFIX.pack(MAGIC, VERSION, 0, 1 << 31, 0), FrameTooLarge),
        (PREFIX.pack(MAGIC, VERSION, 0, 0, (1 << 32) - 1), FrameTooLarge),
        (PREFIX.pack(b"NO", VERSION, 0, 0, 0), ProtocolViolation),
        (PREFIX.pack(MAGIC, VERSION + 1, 0, 0, 0), ProtocolViolation),
        (PREFIX.pack(MAGIC, VERSION, 1, 0, 1), ProtocolViolation),
        (PREFIX.pack(MAGIC, VERSION, 0, 5, 5)[:7], FrameTruncated),
        (PREFIX.pack(MAGIC, VERSION, 0, 5, 5) + b"head", FrameTruncated),
        (PREFIX.pack(MAGIC, VERSION, 0, 5, 5) + b"headr" + b"payl", FrameTruncated),
        (PREFIX.pack(MAGIC, VERSION, 0, 2, 2) + b"h" + GOODBYE[:2], FrameTruncated),
        (b"", PeerUnreachable),
    ],
)
async def test_hostile_bytes_are_refused_and_close_the_channel(pair: Pair, sent: bytes, error: type[MeshError]) -> None:
    inbox = Inbox()
    async with pair() as (a, b):
        await b.serve(PROTOCOL, inbox)
        _, writer = await a.open_raw(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        writer.write(sent)
        writer.close()
        await writer.wait_closed()

        with pytest.raises(error) as caught:
            await receive(remote)
        assert type(caught.value) is error
        assert caught.value.peer == a.peer_id  # type: ignore[attr-defined]
        with pytest.raises(PeerUnreachable):
            await remote.send(Frame(b"h"))


async def test_a_frame_that_stalls_is_given_up(pair: Pair) -> None:
    inbox = Inbox()
    async with pair(TransportSettings(stream=StreamSettings(frame_timeout=0.2))) as (a, b):
        await b.serve(PROTOCOL, inbox)
        _, writer = await a.open_raw(b.peer_id, PROTOCOL)
        remote = await inbox.next()
        writer.write(PREFIX.pack(MAGIC, VERSION, 0, 1, 100) + b"hpay")

        with pytest.raises(FrameTruncated, match="stalled"):
            await receive(remote)
        writer.transport.abort()
