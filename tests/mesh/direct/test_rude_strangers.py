"""What comes to the direct port from peers that keep to no rule, or that come back, harms nobody."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from mesh.errors import PeerUnreachable
from mesh.transport.direct.certificate import Credentials
from mesh.transport.direct.dialler import TurnedAway
from mesh.transport.direct.door import DoorSettings
from mesh.transport.direct.transport import DirectSettings
from mesh.transport.memory import MemoryTransport
from mesh.wire.direct import (
    MESSAGE_LIMITS,
    Accepted,
    Introduced,
    encode,
)
from mesh.wire.frame import PREFIX, Frame, encode_prefix
from tests.mesh.direct.duo import PROTOCOL, duo, echo, ended
from tests.mesh.direct.introductions import IMPATIENT, hello, introduce

pytestmark = pytest.mark.timeout(40)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(1000),
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        b"IM\x01\x00" + bytes(8),
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
    ],
)
async def test_garbage_on_the_direct_port_harms_nobody(garbage: bytes) -> None:
    async with duo(IMPATIENT) as (a, b, _):
        await b.direct.serve(PROTOCOL, echo)
        reader, writer = await asyncio.open_connection(*b.address)
        writer.write(garbage)
        await ended(reader)
        writer.transport.abort()
        channel = await a.direct.open(b.peer_id, PROTOCOL)
        await channel.send(Frame(b"still", b"here"))
        assert await channel.receive() == Frame(b"still", bytearray(b"here"))


@pytest.mark.parametrize(
    "said",
    [
        PREFIX.pack(b"IM", 1, 0, 1 << 31, 0),
        PREFIX.pack(b"IM", 1, 0, MESSAGE_LIMITS.header + 1, 0),
        PREFIX.pack(b"IM", 1, 0, 3, 1),
        PREFIX.pack(b"IM", 1, 0, 3, 0) + b"abc",
        PREFIX.pack(b"IM", 1, 0, 3, 0) + b"ab",
        PREFIX.pack(b"IM", 1, 1, 0, 0),
        b"IM",
        b"",
        encode_prefix(encode(Accepted()), MESSAGE_LIMITS) + encode(Accepted()).header,
        bytes(100_000),
    ],
)
async def test_an_invited_peer_that_says_no_proper_hello_is_broken_off(said: bytes) -> None:
    async with duo(IMPATIENT) as (a, b, _):
        await b.direct.serve(PROTOCOL, echo)
        own = Credentials.create(a.identity)
        answer = await introduce(a, b, own)
        assert isinstance(answer, Introduced)
        context = own.context(answer.certificate, server=False)
        reader, writer = await hello(b.address, context, answer.token, said)
        assert await ended(reader) == b""
        writer.transport.abort()


async def test_those_who_dawdle_over_the_handshake_are_cut_off_and_keep_nobody_out() -> None:
    settings = DirectSettings(door=DoorSettings(seconds=1.0, strangers=20, strangers_per_host=20))
    async with duo(settings) as (a, b, _):
        await b.direct.serve(PROTOCOL, echo)
        loop = asyncio.get_running_loop()
        began = loop.time()
        idle = [await asyncio.open_connection(*b.address) for _ in range(60)]
        for _, writer in idle[:30]:
            writer.write(b"\x16\x03\x01")  # the start of a handshake
        channel = await a.direct.open(b.peer_id, PROTOCOL, timeout=5)  # the port is full of them now
        await channel.send(Frame(b"h"))
        assert await channel.receive() == Frame(b"h", bytearray())
        assert len(b.direct._door._strangers) <= 20
        for reader, writer in idle:
            await ended(reader)
            writer.transport.abort()
        assert loop.time() - began < 8
        assert not b.direct._door._strangers
        assert not b.direct._door._hosts


async def test_a_connection_reset_before_it_is_accepted_does_not_stop_the_port() -> None:
    async with duo(IMPATIENT) as (a, b, _):
        await b.direct.serve(PROTOCOL, echo)
        for _ in range(20):
            with socket.create_connection(b.address) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await (await a.direct.open(b.peer_id, PROTOCOL)).aclose()


async def test_a_guest_with_too_many_channels_hears_why() -> None:
    async with duo() as (a, b, _):
        b.direct._channels._settings = type(b.direct._channels._settings)(inbound_per_peer=2)
        await b.direct.serve(PROTOCOL, echo)
        kept = [await a.direct.open(b.peer_id, PROTOCOL) for _ in range(2)]
        with pytest.raises(TurnedAway, match="too many"):
            await a.direct.open(b.peer_id, PROTOCOL)
        for channel in kept:
            await channel.aclose()


async def test_a_node_that_restarted_is_found_again() -> None:
    async with duo() as (a, b, network):
        await b.direct.serve(PROTOCOL, echo)
        await (await a.direct.open(b.peer_id, PROTOCOL)).aclose()
        await b.direct.__aexit__(None, None, None)
        await b.control.__aexit__(None, None, None)
        with pytest.raises(PeerUnreachable):
            await a.direct.open(b.peer_id, PROTOCOL)

        async with MemoryTransport(b.peer_id, network) as control:
            again = type(b.direct)(b.identity, control)
            async with again:
                await again.serve(PROTOCOL, echo)
                channel = await a.direct.open(b.peer_id, PROTOCOL)
                await channel.send(Frame(b"h"))
                assert await channel.receive() == Frame(b"h", bytearray())
                await channel.aclose()
