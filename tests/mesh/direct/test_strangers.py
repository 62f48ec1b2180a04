"""The direct port and those who were not invited: impostors, replays, a man in the middle, the slow and the loud."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.identity import Identity
from mesh.transport.direct.certificate import Credentials
from mesh.transport.direct.dialler import NotIntroduced, TurnedAway
from mesh.transport.direct.door import DoorSettings
from mesh.transport.direct.transport import DirectSettings
from mesh.transport.memory import MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.direct import (
    DIRECT_PROTOCOL,
    MESSAGE_LIMITS,
    Accepted,
    Declined,
    Hello,
    Introduce,
    Introduced,
    Start,
    decode,
    encode,
)
from mesh.wire.frame import GOODBYE, PREFIX, Frame, encode_prefix
from tests.mesh.direct.duo import DEADLINE, PROTOCOL, Side, duo, echo, ended

pytestmark = pytest.mark.timeout(40)

IMPATIENT = DirectSettings(door=DoorSettings(seconds=0.5))


async def introduce(side: Side, to: Side, credentials: Credentials) -> Introduced | Declined:
    """What `to` answers when `side` introduces itself with `credentials` over the control path."""
    channel = await side.control.open(to.peer_id, DIRECT_PROTOCOL)
    await channel.send(encode(Introduce(credentials.certificate)))
    frame = await channel.receive()
    assert frame is not None
    await channel.aclose()
    answer = decode(frame)
    assert isinstance(answer, Introduced | Declined)
    return answer


async def hello(
    address: tuple[str, int], context: ssl.SSLContext, name: str, data: bytes | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial by hand, say hello and start (or say `data`)."""
    reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
    usual = b"".join(
        encode_prefix(frame, MESSAGE_LIMITS) + frame.header for frame in (encode(Hello(PROTOCOL)), encode(Start()))
    )
    writer.write(usual if data is None else data)
    return reader, writer


async def refused(address: tuple[str, int], context: ssl.SSLContext, name: str) -> bool:
    """True when dialling like that gets no frame."""
    try:
        reader, writer = await hello(address, context, name)
    except OSError:
        return True
    received = await ended(reader)
    writer.transport.abort()
    return received == b""


async def leave(channel: Channel) -> None:
    """A handler that returns at once, upon which its channel is closed."""


async def test_a_peer_that_introduced_itself_enters_and_nobody_else() -> None:
    entered: list[str] = []

    async def note(channel: Channel) -> None:
        entered.append(channel.peer)

    async with duo() as (a, b, _):
        await b.direct.serve(PROTOCOL, note)
        own = Credentials.create(a.identity)
        answer = await introduce(a, b, own)
        assert isinstance(answer, Introduced)
        port = answer.addresses[0]
        assert port == b.address

        stranger = Credentials.create(Identity.generate())
        impostor = Credentials.create(a.identity)  # the same peer, but not the certificate that was introduced
        for credentials in (stranger, impostor):
            assert await refused(port, credentials.context(answer.certificate, server=False), answer.token)
        for token in ("m" + "0" * 32, "localhost", answer.token[:-1]):
            assert await refused(port, own.context(answer.certificate, server=False), token)
        anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anonymous.check_hostname = False
        anonymous.verify_mode = ssl.CERT_NONE
        assert await refused(port, anonymous, answer.token)
        assert entered == []

        reader, writer = await hello(port, own.context(answer.certificate, server=False), answer.token)
        size = PREFIX.unpack(await reader.readexactly(PREFIX.size))[3]
        assert isinstance(decode(Frame(await reader.readexactly(size))), Accepted)
        assert await ended(reader) == GOODBYE
        assert entered == [a.peer_id]
        writer.transport.abort()


async def test_a_connection_that_is_never_started_reaches_no_handler() -> None:
    entered: list[str] = []

    async def note(channel: Channel) -> None:
        entered.append(channel.peer)

    async with duo(IMPATIENT) as (a, b, _):
        await b.direct.serve(PROTOCOL, note)
        for _ in range(2):
            (await a.direct.prepare(b.peer_id, PROTOCOL)).abort()
        idle = await a.direct.prepare(b.peer_id, PROTOCOL)
        while b.direct._door._strangers:
            await asyncio.wait(b.direct._door._strangers, timeout=DEADLINE)
        with pytest.raises(PeerUnreachable):
            await a.direct.start(idle, b.peer_id).receive()
        assert entered == []


async def test_of_several_addresses_that_work_one_is_started() -> None:
    entered: list[str] = []

    async def note(channel: Channel) -> None:
        entered.append(channel.peer)
        await channel.receive()

    async with duo() as (a, b, _):
        b.direct._addresses = lambda: ["127.0.0.7", "127.0.0.1"]  # the first is not listened on
        await b.direct.serve(PROTOCOL, note)
        known, _ = await a.direct._dialler.meet(b.peer_id)
        same = (b.address, b.address, b.address)
        known.introduced = Introduced(
            known.introduced.certificate, same, known.introduced.token, known.introduced.seconds
        )
        for _ in range(3):
            await (await a.direct.open(b.peer_id, PROTOCOL)).aclose()
        a.direct._dialler.acquaintances.clear()
        await (await a.direct.open(b.peer_id, PROTOCOL)).aclose()
        assert entered == [a.peer_id] * 4


async def test_another_guest_cannot_use_a_token_that_it_saw() -> None:
    async with duo() as (a, b, network):
        await b.direct.serve(PROTOCOL, leave)
        mallory = Identity.generate()
        async with MemoryTransport(mallory.peer_id, network) as control:
            other = Side(mallory, control, a.direct)
            hers = Credentials.create(mallory)
            answer = await introduce(other, b, hers)
            victim = await introduce(a, b, Credentials.create(a.identity))
            assert isinstance(answer, Introduced)
            assert isinstance(victim, Introduced)
            assert answer.token != victim.token
            context = hers.context(answer.certificate, server=False)
            assert await refused(b.address, context, victim.token)
            assert not await refused(b.address, context, answer.token)


async def test_nobody_is_introduced_with_the_certificate_of_another() -> None:
    async with duo() as (a, b, _):
        answer = await introduce(a, b, Credentials.create(Identity.generate()))
        assert isinstance(answer, Declined)
        assert "another peer" in answer.reason


async def test_an_older_tls_is_not_spoken() -> None:
    async with duo() as (a, b, _):
        own = Credentials.create(a.identity)
        answer = await introduce(a, b, own)
        assert isinstance(answer, Introduced)
        context = own.context(answer.certificate, server=False)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await refused(b.address, context, answer.token)


async def test_an_invitation_ends() -> None:
    async with duo(DirectSettings(invitation_seconds=0.3)) as (a, b, _):
        await b.direct.serve(PROTOCOL, leave)
        own = Credentials.create(a.identity)
        answer = await introduce(a, b, own)
        assert isinstance(answer, Introduced)
        context = own.context(answer.certificate, server=False)
        async with asyncio.timeout(DEADLINE):
            while not await refused(b.address, context, answer.token):
                pass
        channel = await a.direct.open(b.peer_id, PROTOCOL)  # which introduces us again
        assert await channel.receive() is None
        await channel.aclose()


@asynccontextmanager
async def recording_proxy(target: tuple[str, int]) -> AsyncIterator[tuple[tuple[str, int], list[bytes]]]:
    """Passes bytes on between a dialler and `target`, and keeps what the dialler sent."""
    recorded: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if keep:
                    recorded.append(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection(*target)
        async with asyncio.TaskGroup() as both:
            both.create_task(pump(reader, onward[1], True))
            both.create_task(pump(onward[0], writer, False))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname(), recorded
        await asyncio.sleep(0)


async def test_what_was_recorded_of_a_connection_opens_no_other() -> None:
    entered: list[str] = []

    async def note(channel: Channel) -> None:
        entered.append(channel.peer)

    async with duo() as (a, b, _):
        await b.direct.serve(PROTOCOL, note)
        own = Credentials.create(a.identity)
        answer = await introduce(a, b, own)
        assert isinstance(answer, Introduced)
        async with recording_proxy(b.address) as (proxy, recorded):
            reader, writer = await hello(proxy, own.context(answer.certificate, server=False), answer.token)
            assert await ended(reader)
            writer.transport.abort()
        assert entered == [a.peer_id]
        assert len(b"".join(recorded)) > 1000  # client hello, certificate, hello frame

        reader, writer = await asyncio.open_connection(*b.address)
        for piece in recorded:
            writer.write(piece)
        await ended(reader)
        writer.transport.abort()
        assert entered == [a.peer_id]


@asynccontextmanager
async def man_in_the_middle(context: ssl.SSLContext) -> AsyncIterator[tuple[tuple[str, int], list[bytes]]]:
    """Answers in place of the peer, with a certificate of its own; keeps what it was told in confidence."""
    told: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await ended(reader))
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname(), told


async def test_a_man_in_the_middle_is_not_believed() -> None:
    async with duo() as (a, b, _):
        mallory = Credentials.create(Identity.generate())
        also_b = Credentials.create(b.identity)  # as if b's identity had signed for another key
        for credentials in (mallory, also_b):
            context = credentials.context(None, server=True)
            context.verify_mode = ssl.CERT_NONE
            async with man_in_the_middle(context) as (address, told):
                b.direct._addresses = lambda: ["127.0.0.1"]
                await introduce(a, b, Credentials.create(a.identity))
                known, _ = await a.direct._dialler.meet(b.peer_id)
                known.introduced = Introduced(
                    known.introduced.certificate, (address,), known.introduced.token, known.introduced.seconds
                )
                with pytest.raises((ssl.SSLError, PeerUnreachable)):
                    await a.direct._dialler.try_addresses(b.peer_id, known, PROTOCOL)
            assert b"".join(told) == b""


async def test_a_peer_that_introduces_itself_as_another_is_not_dialled() -> None:
    async with duo() as (a, b, network):
        mallory = Identity.generate()

        async def lie(channel: Channel) -> None:
            await channel.receive()
            certificate = Credentials.create(b.identity).certificate
            await channel.send(encode(Introduced(certificate, (b.address,), "m" + "0" * 32, 60.0)))

        async with MemoryTransport(mallory.peer_id, network) as control:
            await control.serve(DIRECT_PROTOCOL, lie)
            with pytest.raises(ProtocolViolation, match="another peer"):
                await a.direct.open(mallory.peer_id, PROTOCOL)


async def test_a_peer_that_never_answers_an_introduction_costs_no_more_than_the_timeout() -> None:
    async with duo() as (a, _, network):
        silent = Identity.generate()

        async def say_nothing(channel: Channel) -> None:
            await channel.receive()
            await channel.receive()

        async with MemoryTransport(silent.peer_id, network) as control:
            await control.serve(DIRECT_PROTOCOL, say_nothing)
            with pytest.raises(PeerTimeout):
                await a.direct.open(silent.peer_id, PROTOCOL, timeout=0.3)
        with pytest.raises(NotIntroduced):
            await a.direct.open(silent.peer_id, PROTOCOL, timeout=0.3)


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
