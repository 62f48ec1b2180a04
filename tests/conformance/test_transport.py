"""What every transport does alike: the in-memory twin, real p2pd daemons, direct TLS, and libp2p without a daemon.

Two pairs have a daemon at one end and none at the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from mesh.errors import (
    FrameTooLarge,
    FrameTruncated,
    InternalError,
    MeshError,
    PeerFailed,
    PeerTimeout,
    PeerUnreachable,
    ProtocolViolation,
)
from mesh.identity import Identity, peer_id_of
from mesh.transport.channels import TransportSettings
from mesh.transport.choosing import ChoosingTransport
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.direct.transport import DirectSettings, DirectTransport
from mesh.transport.heartbeat import HeartbeatTransport
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.libp2p.transport import Libp2pSettings, Libp2pTransport
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel, Transport
from mesh.transport.streams import StreamSettings
from mesh.wire.frame import GOODBYE, MAGIC, PREFIX, VERSION, Frame, FrameLimits


class Side(Transport, Protocol):
    """What the adapters here have in common."""

    async def open_raw(self, peer: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The bare byte stream of a new channel: a hostile peer's view."""


Pair = Callable[..., AbstractAsyncContextManager[tuple[Side, Side]]]

pytestmark = pytest.mark.timeout(30)

PROTOCOL = "/mesh/test/1"
MIB = 1 << 20
DEADLINE = 20.0


@asynccontextmanager
async def memory_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    network = MemoryNetwork()
    a, b = (MemoryTransport(Identity.generate().peer_id, network, settings=settings) for _ in range(2))
    async with a, b:
        yield a, b


@asynccontextmanager
async def hivemind_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with Daemon(DaemonConfig(Identity.generate())) as first:
        config = DaemonConfig(Identity.generate(), initial_peers=first.visible_maddrs)
        async with (
            Daemon(config) as second,
            HivemindTransport(first, settings=settings) as a,
            HivemindTransport(second, settings=settings) as b,
        ):
            yield a, b


@asynccontextmanager
async def direct_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with both_paths(settings) as ((a, _), (b, _)), a, b:
        yield a, b


class Choosing(ChoosingTransport):
    """With the hostile peer's view of the direct path."""

    def __init__(self, direct: DirectTransport, control: MemoryTransport) -> None:
        super().__init__(direct, control)
        self.open_raw = direct.open_raw


@asynccontextmanager
async def choosing_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with both_paths(settings) as (a, b), a[0], b[0], Choosing(*a) as first, Choosing(*b) as second:
        yield first, second


class Beating(HeartbeatTransport):
    """Watches the channels of the tests, over the in-memory twin."""

    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner, protocols={PROTOCOL})
        self.open_raw = inner.open_raw


@asynccontextmanager
async def beating_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with memory_pair(settings) as (a, b):
        assert isinstance(a, MemoryTransport)
        assert isinstance(b, MemoryTransport)
        async with Beating(a) as first, Beating(b) as second:
            yield first, second


@asynccontextmanager
async def both_paths(
    settings: TransportSettings | None,
) -> AsyncIterator[list[tuple[DirectTransport, MemoryTransport]]]:
    network = MemoryNetwork()
    bounds = DirectSettings(transport=settings or TransportSettings())
    own = [Identity.generate() for _ in range(2)]
    controls = [MemoryTransport(identity.peer_id, network) for identity in own]
    async with controls[0], controls[1]:
        yield [(DirectTransport(who, path, settings=bounds), path) for who, path in zip(own, controls, strict=True)]


@asynccontextmanager
async def libp2p_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    a, b = (libp2p_side(settings) for _ in range(2))
    async with a, b:
        a.learn(b.peer_id, b.maddrs)
        b.learn(a.peer_id, a.maddrs)
        yield a, b


def libp2p_side(settings: TransportSettings | None) -> Libp2pTransport:
    bounds = Libp2pSettings(transport=settings or TransportSettings())
    return Libp2pTransport(Identity.generate(), listen=("/ip4/127.0.0.1/tcp/0",), settings=bounds)


@asynccontextmanager
async def libp2p_to_hivemind(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with (
        Daemon(DaemonConfig(Identity.generate())) as daemon,
        HivemindTransport(daemon, settings=settings) as b,
        libp2p_side(settings) as a,
    ):
        a.learn(b.peer_id, daemon.visible_maddrs)
        await daemon.connect(a.peer_id, a.maddrs)
        yield a, b


@asynccontextmanager
async def hivemind_to_libp2p(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with libp2p_to_hivemind(settings) as (light, daemon):
        yield daemon, light


@pytest.fixture(
    params=[
        memory_pair,
        hivemind_pair,
        direct_pair,
        choosing_pair,
        beating_pair,
        libp2p_pair,
        libp2p_to_hivemind,
        hivemind_to_libp2p,
    ],
    ids=["memory", "hivemind", "direct", "choosing", "heartbeat", "libp2p", "libp2p-to-hivemind", "hivemind-to-libp2p"],
)
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.param  # type: ignore[no-any-return]


class Inbox:
    """A handler that hands its channels to the test and keeps each open until the test lets go."""

    def __init__(self) -> None:
        self.channels: asyncio.Queue[Channel] = asyncio.Queue()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, channel: Channel) -> None:
        await self.channels.put(channel)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def next(self) -> Channel:
        async with asyncio.timeout(DEADLINE):
            return await self.channels.get()


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


async def receive(channel: Channel) -> Frame | None:
    async with asyncio.timeout(DEADLINE):
        return await channel.receive()


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


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


async def test_too_many_channels_of_one_peer_are_broken_off(pair: Pair) -> None:
    inbox = Inbox()
    async with pair(TransportSettings(inbound_per_peer=3)) as (a, b):
        if isinstance(a, HeartbeatTransport):
            pytest.skip("its heartbeats take one of the places")
        await b.serve(PROTOCOL, inbox)
        kept = [await a.open(b.peer_id, PROTOCOL) for _ in range(3)]
        for _ in kept:
            await inbox.next()
        with pytest.raises(PeerUnreachable):
            surplus = await a.open(b.peer_id, PROTOCOL)
            await receive(surplus)

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
        kept = [await a.open(b.peer_id, PROTOCOL) for _ in range(3)]
        for _ in kept:
            await inbox.next()
        with pytest.raises(PeerUnreachable):
            surplus = await a.open(b.peer_id, PROTOCOL)
            await receive(surplus)
        for channel in kept:
            assert not channel.closed  # type: ignore[attr-defined]


async def test_large_frames_that_do_not_end_are_broken_off_when_there_are_too_many_bytes_of_them(pair: Pair) -> None:
    async with pair(TransportSettings(unfinished_per_peer=300_000)) as (a, b):
        await b.serve(PROTOCOL, echo)
        slow_reader, slow_writer = await a.open_raw(b.peer_id, PROTOCOL)
        slow_writer.write(PREFIX.pack(MAGIC, VERSION, 0, 1, 1_000_000) + b"h" + bytes(200_000))
        await slow_writer.drain()
        channel = await a.open(b.peer_id, PROTOCOL)

        async with asyncio.timeout(DEADLINE):
            for _ in range(3):  # frames that are whole hold nothing any more, however many they are
                await channel.send(Frame(b"h", bytes(250_000)))
                answer = await receive(channel)
                assert answer is not None and len(answer.payload) == 250_000
            try:
                while await slow_reader.read(1 << 16):
                    pass
            except OSError:
                pass
        slow_writer.transport.abort()
