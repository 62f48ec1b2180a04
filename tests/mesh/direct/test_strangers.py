"""The direct port and those who were not invited: impostors, replays, a man in the middle, the slow and the loud."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.identity import Identity
from mesh.transport.direct.certificate import Credentials
from mesh.transport.direct.dialler import NotIntroduced
from mesh.transport.direct.transport import DirectSettings
from mesh.transport.memory import MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.direct import (
    DIRECT_PROTOCOL,
    Accepted,
    Declined,
    Introduced,
    decode,
    encode,
)
from mesh.wire.frame import GOODBYE, PREFIX, Frame
from tests.mesh.direct.duo import DEADLINE, PROTOCOL, Side, duo, ended
from tests.mesh.direct.introductions import IMPATIENT, hello, introduce

pytestmark = pytest.mark.timeout(40)


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
