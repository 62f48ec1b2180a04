"""Peers that are reached through a relay: real p2pd daemons behind a relay of the test's own, and relays that lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import PeerUnreachable
from mesh.identity import Identity, peer_id_of
from mesh.transport import _libp2p
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.libp2p import negotiation
from mesh.transport.libp2p.addresses import Address, AddressBook, tcp_address
from mesh.transport.libp2p.muxed_stream import MuxedStream
from mesh.transport.libp2p.transport import Libp2pTransport
from mesh.transport.port import Channel
from mesh.wire.circuit import HOP_PROTOCOL, STOP_PROTOCOL
from mesh.wire.frame import Frame
from tests.mesh.libp2p.relay_messages import circuit_messages

pytestmark = pytest.mark.timeout(60)

PROTOCOL = "/mesh/test/1"
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


def framed(message: bytes) -> bytes:
    assert len(message) < 128
    return bytes((len(message),)) + message


class Relay(Libp2pTransport):
    """Connects whoever asks to peers that it is connected with; or answers `lie`."""

    def __init__(self, lie: bytes | None = None) -> None:
        super().__init__(Identity.generate(), listen=LOOPBACK)
        self._lie = lie
        self.asked: list[str] = []

    async def _accept(self, stream: MuxedStream) -> None:
        h = _libp2p.load()
        hop, stop = circuit_messages().HopMessage, circuit_messages().StopMessage
        talk = negotiation.StreamBytes(stream.reader, stream.writer)
        if await negotiation.respond(talk, (HOP_PROTOCOL,)) != HOP_PROTOCOL:
            return
        request = hop.FromString(await talk.read((await talk.read(1))[0]))
        assert request.type == hop.CONNECT
        target = h.ID(request.peer.id).to_base58()
        self.asked.append(target)
        if self._lie is not None:
            await talk.write(self._lie)
            stream.close()
            return
        there = self._usable(target)
        if there is None:
            answer = hop(type=hop.STATUS, status=circuit_messages().Status.NO_RESERVATION)
            await talk.write(framed(answer.SerializeToString()))
            stream.close()
            return
        onward = there.open()
        other = negotiation.StreamBytes(onward.reader, onward.writer)
        await negotiation.propose(other, STOP_PROTOCOL)
        asker = circuit_messages().PeerId(id=h.ID.from_base58(stream.peer).to_bytes())
        await other.write(framed(stop(type=stop.CONNECT, peer=asker).SerializeToString()))
        answer = stop.FromString(await other.read((await other.read(1))[0]))
        assert answer.status == circuit_messages().Status.OK
        await talk.write(framed(hop(type=hop.STATUS, status=circuit_messages().Status.OK).SerializeToString()))
        await asyncio.gather(pass_on(stream, onward), pass_on(onward, stream))


async def pass_on(source: MuxedStream, to: MuxedStream) -> None:
    try:
        while data := await source.reader.read(65536):
            to.writer.write(data)
            await to.writer.drain()
    except OSError:
        pass
    to.abort()


@asynccontextmanager
async def relayed(relay: Relay) -> AsyncIterator[tuple[Libp2pTransport, str, str]]:
    """Somebody who dials, a daemon's peer id, and its address at the relay."""
    async with (
        relay,
        Daemon(DaemonConfig(Identity.generate())) as daemon,
        HivemindTransport(daemon) as there,
        Libp2pTransport(Identity.generate()) as own,
    ):
        await there.serve(PROTOCOL, echo)
        await daemon.connect(relay.peer_id, relay.maddrs)
        yield own, daemon.peer_id, f"{relay.maddrs[0]}/p2p-circuit/p2p/{daemon.peer_id}"


async def test_a_daemon_is_reached_through_a_relay_and_large_frames_come_back() -> None:
    relay = Relay()
    async with relayed(relay) as (own, peer, maddr):
        own.learn(peer, [maddr])
        channel = await own.open(peer, PROTOCOL)
        assert channel.peer == peer
        for size in (0, 1000, 3_000_000):
            sent = Frame(b"%d" % size, bytes(size))
            async with asyncio.TaskGroup() as group:
                group.create_task(channel.send(sent))
                back = await channel.receive()
            assert back == Frame(b"%d" % size, bytearray(size))
        second = await own.open(peer, PROTOCOL)
        await second.send(Frame(b"on the same circuit"))
        assert await second.receive() == Frame(b"on the same circuit", bytearray())
        assert relay.asked == [peer]
        for each in (channel, second):
            await each.aclose()


async def test_a_peer_that_the_relay_does_not_know_is_unreachable() -> None:
    relay = Relay()
    stranger = Identity.generate().peer_id
    async with relayed(relay) as (own, _, _):
        own.learn(stranger, [f"{relay.maddrs[0]}/p2p-circuit/p2p/{stranger}"])
        with pytest.raises(PeerUnreachable, match="NO_RESERVATION"):
            await own.open(stranger, PROTOCOL)


async def test_a_relay_that_leads_to_somebody_else_is_found_out() -> None:
    class Crooked(Relay):
        def _usable(self, peer: str):  # type: ignore[no-untyped-def]
            return next((each[-1] for name, each in self._connections.items() if name == victim), None)

    victim, wanted = "", Identity.generate().peer_id
    relay = Crooked()
    async with relayed(relay) as (own, peer, _):
        victim = peer
        own.learn(wanted, [f"{relay.maddrs[0]}/p2p-circuit/p2p/{wanted}"])
        with pytest.raises(PeerUnreachable, match="handshake"):
            await own.open(wanted, PROTOCOL)
        assert relay.asked == [wanted]


@pytest.mark.parametrize(
    "lie", [b"", b"\0", b"\x05hello", b"\xff\xff\xff\xff\xff", b"\xff\x7f" + bytes(100), b"\2\x08\0", b"\4\x08\2\x28\1"]
)
async def test_a_relay_that_answers_nonsense_is_refused(lie: bytes) -> None:
    async with Relay(lie) as relay, Libp2pTransport(Identity.generate()) as own:
        wanted = Identity.generate().peer_id
        own.learn(wanted, [f"{relay.maddrs[0]}/p2p-circuit/p2p/{wanted}"])
        with pytest.raises(PeerUnreachable):
            await own.open(wanted, PROTOCOL, timeout=5)
        assert relay.asked == [wanted]


PEER, RELAY = peer_id_of(bytes(32)), peer_id_of(bytes(31) + b"\1")


@pytest.mark.parametrize(
    ("maddr", "read"),
    [
        ("/ip4/1.2.3.4/tcp/5", (Address("1.2.3.4", 5), None)),
        (f"/ip4/1.2.3.4/tcp/5/p2p/{PEER}", (Address("1.2.3.4", 5), PEER)),
        ("/ip6/::1/tcp/65535", (Address("::1", 65535), None)),
        ("/dns4/example.org/tcp/443", (Address("example.org", 443), None)),
        (f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY}/p2p-circuit", (Address("1.2.3.4", 5, RELAY), None)),
        (f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", (Address("1.2.3.4", 5, RELAY), PEER)),
        ("/ip4/1.2.3.4/tcp/5/p2p/nobody/p2p-circuit", None),
        (f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", None),
        ("/ip4/1.2.3.4/udp/5/quic-v1", None),
        ("/ip4/1.2.3.4/tcp/5/ws", None),
        ("/ip4/1.2.3.4/tcp/65536", None),
        ("/ip4/1.2.3.4/tcp/-1", None),
        ("/ip4/1.2.3/tcp/5", None),
        ("/ip6/1.2.3.4/tcp/5", None),
        ("/dns4//tcp/5", None),
        ("", None),
        ("/", None),
    ],
)
def test_addresses_are_read_strictly(maddr: str, read: tuple[Address, str | None] | None) -> None:
    assert tcp_address(maddr) == read


def test_the_book_is_bounded_and_tries_relays_last_and_what_worked_first() -> None:
    book = AddressBook(max_peers=2)
    near, far = Address("1.2.3.4", 5), Address("5.6.7.8", 9)
    around = f"/ip4/9.9.9.9/tcp/1/p2p/{RELAY}/p2p-circuit"
    book.learn(
        PEER, [around, "/ip4/1.2.3.4/tcp/5", f"/ip4/5.6.7.8/tcp/9/p2p/{PEER}", f"/ip4/6.6.6.6/tcp/6/p2p/{RELAY}"]
    )
    assert book.addresses(PEER) == (near, far, Address("9.9.9.9", 1, RELAY))
    book.worked(PEER, far)
    book.learn(PEER, [around, "/ip4/1.2.3.4/tcp/5", "/ip4/5.6.7.8/tcp/9"])
    assert book.addresses(PEER)[0] == far
    book.learn(PEER, ["rubbish"])
    assert book.addresses(PEER)[0] == far
    book.learn(PEER, [f"/ip4/1.1.1.1/tcp/{port}" for port in range(1, 100)])
    assert len(book.addresses(PEER)) == 16
    for name in ("a", "b", "c"):
        book.learn(name, ["/ip4/1.2.3.4/tcp/5"])
    assert len(book) == 2
    assert book.addresses(PEER) == ()
