"""Channels over TLS where they differ from streams: staging, decryption into place, silence and bounded memory."""

from __future__ import annotations

import asyncio
import ctypes
import random
import socket
import struct
import sys

import psutil
import pytest

from mesh.errors import FrameTruncated, PeerUnreachable
from mesh.transport.channels import TransportSettings
from mesh.transport.direct.channel import DirectChannel
from mesh.transport.direct.liveness import silent
from mesh.transport.direct.transport import DirectSettings
from mesh.transport.port import Channel
from mesh.transport.streams import StreamSettings
from mesh.wire.frame import GOODBYE, PREFIX, Frame
from tests.mesh.direct.duo import PROTOCOL, Side, duo, echo

pytestmark = pytest.mark.timeout(40)


class Kept:
    """A handler that hands over its channel and waits."""

    def __init__(self) -> None:
        self.channels: asyncio.Queue[Channel] = asyncio.Queue()

    async def __call__(self, channel: Channel) -> None:
        self.channels.put_nowait(channel)
        await asyncio.Event().wait()


async def both_ends(a: Side, b: Side) -> tuple[DirectChannel, DirectChannel]:
    kept = Kept()
    await b.direct.serve(PROTOCOL, kept)
    here = await a.direct.open(b.peer_id, PROTOCOL)
    there = await kept.channels.get()
    assert isinstance(here, DirectChannel)
    assert isinstance(there, DirectChannel)
    return here, there


@pytest.mark.parametrize("seed", range(4))
async def test_frames_of_any_sizes_in_any_pieces_arrive_whole(seed: int) -> None:
    dice = random.Random(seed)
    edges = (0, 1, 12, 4095, 4096, 32_767, 32_768, 32_769, 61_440, 65_535, 65_536, 65_537, 131_072, 300_000)
    frames = [
        Frame(dice.randbytes(dice.choice((0, 1, 500, 70_000))), dice.randbytes(dice.choice(edges))) for _ in range(60)
    ]
    data = b"".join(PREFIX.pack(b"IM", 1, 0, len(f.header), len(f.payload)) + f.header + f.payload for f in frames)
    async with duo() as (a, b, _):
        kept = Kept()
        await b.direct.serve(PROTOCOL, kept)
        _, writer = await a.direct.open_raw(b.peer_id, PROTOCOL)
        there = await kept.channels.get()

        async def send_pieces() -> None:
            position = 0
            while position < len(data):
                piece = data[position : position + dice.choice((1, 11, 13, 5000, 65_536, 200_000))]
                writer.write(piece)
                position += len(piece)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(send_pieces())
            for number, frame in enumerate(frames):
                got = await there.receive()
                assert got is not None
                assert (got.header, bytes(got.payload)) == (frame.header, frame.payload), number
        writer.write(GOODBYE)
        assert await there.receive() is None
        writer.transport.abort()


async def test_a_promise_of_64_mib_takes_no_memory_until_it_is_kept() -> None:
    def resident() -> int:
        return psutil.Process().memory_info().rss

    async with duo(DirectSettings(transport=TransportSettings(stream=StreamSettings(frame_timeout=0.5)))) as (a, b, _):
        kept = Kept()
        await b.direct.serve(PROTOCOL, kept)
        raw = [await a.direct.open_raw(b.peer_id, PROTOCOL) for _ in range(16)]
        channels = [await kept.channels.get() for _ in raw]
        before = resident()
        for _, writer in raw:
            writer.write(PREFIX.pack(b"IM", 1, 0, 0, 64 << 20) + b"x")
        receiving = [asyncio.create_task(channel.receive()) for channel in channels]
        await asyncio.wait(receiving, timeout=0.2)
        assert all(channel._assembly.begun for channel in channels if isinstance(channel, DirectChannel))
        assert resident() - before < 64 << 20  # of 1 GiB that was promised
        for task in receiving:
            task.cancel()
        await asyncio.wait(receiving)
        for _, writer in raw:
            writer.transport.abort()


async def test_a_receiver_that_does_not_read_for_long_is_not_taken_for_dead() -> None:
    async with duo() as (a, b, _):
        here, there = await both_ends(a, b)

        async def send_all() -> None:
            for number in range(24):
                await here.send(Frame(b"%d" % number, bytes(1 << 20)))

        sender = asyncio.create_task(send_all())
        done, _ = await asyncio.wait({sender}, timeout=6.5)  # longer than the silence that ends a connection
        assert not done
        for number in range(24):
            frame = await there.receive()
            assert frame is not None
            assert frame.header == b"%d" % number
        await sender


class FakeSocket:
    """Answers TCP_INFO with chosen counters."""

    def __init__(self, unacked: int, data_ms: int, ack_ms: int) -> None:
        self.info = struct.pack("8x13I", 0, 0, 0, 0, unacked, *(0,) * 6, data_ms, ack_ms)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        raise NotImplementedError

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self.info[:size]


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="no TCP_INFO here")
@pytest.mark.parametrize(
    ("unacked", "data_ms", "ack_ms", "dead"),
    [(1, 6500, 6500, True), (1, 10, 6500, False), (1, 6500, 10, False), (0, 90_000, 90_000, False)],
)
def test_silence_is_unacknowledged_data_and_nothing_heard(unacked: int, data_ms: int, ack_ms: int, dead: bool) -> None:
    assert silent(FakeSocket(unacked, data_ms, ack_ms)) is dead


async def test_a_peer_that_vanishes_in_the_middle_of_a_large_frame_is_noticed() -> None:
    async with duo() as (a, b, _):
        kept = Kept()
        await b.direct.serve(PROTOCOL, kept)
        _, writer = await a.direct.open_raw(b.peer_id, PROTOCOL)
        there = await kept.channels.get()
        receiving = asyncio.create_task(there.receive())
        writer.write(PREFIX.pack(b"IM", 1, 0, 1, 1 << 20) + bytes(300_000))
        await writer.drain()
        writer.transport.abort()
        with pytest.raises((FrameTruncated, PeerUnreachable)):
            await receiving


async def test_closing_while_another_task_receives_ends_that_too() -> None:
    async with duo() as (a, b, _):
        here, _ = await both_ends(a, b)
        receiving = asyncio.create_task(here.receive())
        await asyncio.sleep(0)
        await here.aclose()
        with pytest.raises(PeerUnreachable):
            await receiving


async def test_the_same_channel_carries_both_directions_at_full_size() -> None:
    async with duo() as (a, b, _):
        await b.direct.serve(PROTOCOL, echo)
        channel = await a.direct.open(b.peer_id, PROTOCOL)
        payload = random.Random(7).randbytes(3 << 20)

        async def send_all() -> None:
            for _ in range(8):
                await channel.send(Frame(b"h", payload))

        async with asyncio.TaskGroup() as group:
            group.create_task(send_all())
            for _ in range(8):
                back = await channel.receive()
                assert back is not None
                assert back.payload == payload


def swallow_everything(channel: DirectChannel) -> None:
    """From now on the kernel drops whatever arrives at this end (a socket filter that lets nothing pass)."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    channel.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


@pytest.mark.skipif(sys.platform != "linux", reason="socket filters, TCP_INFO")
async def test_a_peer_behind_a_line_that_swallows_everything_is_noticed_within_nine_seconds() -> None:
    async with duo() as (a, b, _):
        kept = Kept()
        await b.direct.serve(PROTOCOL, kept)
        waiting, sending = [await a.direct.open(b.peer_id, PROTOCOL) for _ in range(2)]
        theirs = [await kept.channels.get() for _ in range(2)]
        for channel in (waiting, sending, *theirs):
            assert isinstance(channel, DirectChannel)
            swallow_everything(channel)

        async def send_forever() -> None:
            while True:
                await sending.send(Frame(b"h", bytes(16_384)))
                await asyncio.sleep(0.1)

        began = asyncio.get_running_loop().time()
        ends = await asyncio.gather(waiting.receive(), send_forever(), return_exceptions=True)
        took = asyncio.get_running_loop().time() - began
        assert [type(end) for end in ends] == [PeerUnreachable, PeerUnreachable]
        assert 2 < took < 9
