"""The muxer against peers that keep to yamux and peers that do not, over real sockets and a real Noise handshake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import PeerError, PeerUnreachable, ProtocolViolation
from mesh.identity import Identity
from mesh.transport.channels import TransportSettings
from mesh.transport.libp2p import muxer
from mesh.transport.libp2p import yamux_frames as yamux
from mesh.transport.libp2p.line import Line, Shaker, Wire
from mesh.transport.libp2p.transport import Libp2pSettings, Libp2pTransport
from mesh.transport.libp2p.yamux_frames import Flag, Kind
from mesh.transport.port import Channel
from mesh.wire.frame import Frame, FrameLimits, encode_prefix

pytestmark = pytest.mark.timeout(30)

PROTOCOL = "/mesh/test/1"
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
KIB = 1024


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


@asynccontextmanager
async def listener(settings: Libp2pSettings | None = None) -> AsyncIterator[Libp2pTransport]:
    async with Libp2pTransport(Identity.generate(), listen=LOOPBACK, settings=settings) as transport:
        await transport.serve(PROTOCOL, echo)
        yield transport


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class Stranger:
    """A peer that has shaken hands and sends what it likes."""

    line: Line
    heard: bytearray = field(default_factory=bytearray)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, kind: Kind, flags: Flag, stream: int, length: int, data: bytes = b"") -> None:
        self.line.send(yamux.encode(kind, flags, stream, length) + data)

    def _hear(self, data: bytes) -> None:
        self.heard += data
        self.news.set()

    def frames(self) -> list[yamux.Header]:
        """The headers of the complete frames so far."""
        found, at = [], 0
        while at + yamux.HEADER_SIZE <= len(self.heard):
            header = yamux.decode(self.heard[at : at + yamux.HEADER_SIZE])
            found.append(header)
            at += yamux.HEADER_SIZE + (header.length if header.kind is Kind.DATA else 0)
        return found

    async def hears(self, true: Callable[[yamux.Header], bool]) -> yamux.Header:
        async with asyncio.timeout(10):
            while True:
                for header in self.frames():
                    if true(header):
                        return header
                self.news.clear()
                await self.news.wait()

    async def is_dropped(self) -> None:
        async with asyncio.timeout(10):
            await self.lost.wait()


@asynccontextmanager
async def stranger(to: Libp2pTransport) -> AsyncIterator[Stranger]:
    host, port = "127.0.0.1", int(to.maddrs[0].split("/")[4])
    _, wire = await asyncio.get_running_loop().create_connection(Wire, host, port)
    line = await Shaker(Identity.generate()).dial(wire, to.peer_id)
    own = Stranger(line)
    line.start(own._hear, lambda: None, lambda _: own.lost.set())
    try:
        yield own
    finally:
        wire.abort()
        await own.is_dropped()


DATA, WINDOW, NONE = Kind.DATA, Kind.WINDOW, Flag(0)


@pytest.mark.parametrize(
    "rude",
    [
        lambda s: s.say(DATA, Flag.SYN, 1, 256 * KIB + 1),
        lambda s: s.say(DATA, Flag.SYN, 1, (1 << 32) - 1),
        lambda s: (s.say(WINDOW, Flag.SYN, 1, 0), s.say(DATA, NONE, 1, 256 * KIB + 1)),
        lambda s: s.say(DATA, NONE, 99, (1 << 32) - 1),
        lambda s: (s.say(WINDOW, Flag.SYN, 1, 0), s.say(WINDOW, NONE, 1, (1 << 32) - 1)),
        lambda s: s.say(WINDOW, Flag.SYN, 2, 0),
        lambda s: (s.say(WINDOW, Flag.SYN, 1, 0), s.say(WINDOW, Flag.SYN, 1, 0)),
        lambda s: s.say(DATA, NONE, 0, 4, b"four"),
        lambda s: s.line.send(b"\1" + bytes(11)),
        lambda s: s.line.send(b"\0\7" + bytes(10)),
        lambda s: s.line.send(b"\0\0\1\0" + bytes(8)),
        lambda s: s.line.wire.transport.write(b"\0\x20" + bytes(32)),
        lambda s: s.line.wire.transport.write(b"\0\0"),
    ],
    ids=[
        "more than the window with the first frame",
        "four gigabytes",
        "more than the window",
        "four gigabytes for nobody",
        "a window of more than four gigabytes",
        "a stream with a number of ours",
        "a stream twice",
        "data for no stream",
        "another version",
        "another type",
        "other flags",
        "what it did not encrypt",
        "an empty message",
    ],
)
async def test_who_breaks_the_rules_is_dropped_and_nobody_else_notices(rude: Callable[[Stranger], object]) -> None:
    async with listener() as to, stranger(to) as bad, stranger(to) as good:
        rude(bad)
        await bad.is_dropped()
        good.say(Kind.PING, Flag.SYN, 0, 4711)
        answer = await good.hears(lambda header: header.kind is Kind.PING)
        assert (answer.flags, answer.length) == (Flag.ACK, 4711)
        assert not good.lost.is_set()


async def test_a_slow_reader_is_not_sent_more_than_it_has_room_for() -> None:
    async with listener() as to, stranger(to) as slow:
        body = b"\x13/multistream/1.0.0\n" + bytes((len(PROTOCOL) + 1,)) + PROTOCOL.encode() + b"\n"
        slow.say(DATA, Flag.SYN, 1, len(body), body)
        frame = Frame(b"h", bytes(200 * KIB))
        whole = encode_prefix(frame, FrameLimits()) + frame.header + bytes(frame.payload)
        for _ in range(2):  # 400 KiB there; the echo has room for 256 KiB back
            sent = 0
            while sent < len(whole):
                piece = whole[sent : sent + 32 * KIB]
                slow.say(DATA, NONE, 1, len(piece), piece)
                sent += len(piece)
            await slow.hears(lambda header: header.kind is WINDOW and header.length > 0)
        await slow.hears(lambda _: sum(h.length for h in slow.frames() if h.kind is DATA) >= 256 * KIB)
        await asyncio.sleep(0.2)  # time in which more would come
        assert sum(h.length for h in slow.frames() if h.kind is DATA) == 256 * KIB
        slow.say(WINDOW, NONE, 1, 1 << 20)
        await slow.hears(lambda _: sum(h.length for h in slow.frames() if h.kind is DATA) >= 2 * len(whole))


@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
async def test_a_peer_that_closed_and_leaves_no_room_breaks_the_channel(early: bool) -> None:
    broken = asyncio.Event()

    async def flood(channel: Channel) -> None:
        try:
            while True:
                await channel.send(Frame(b"", bytes(100 * KIB)))
        except PeerUnreachable:
            broken.set()

    async with Libp2pTransport(Identity.generate(), listen=LOOPBACK) as to, stranger(to) as gone:
        await to.serve(PROTOCOL, flood)
        body = b"\x13/multistream/1.0.0\n" + bytes((len(PROTOCOL) + 1,)) + PROTOCOL.encode() + b"\n"
        gone.say(DATA, Flag.SYN, 1, len(body), body)
        if not early:  # it is stuck already when the end comes
            await gone.hears(lambda _: sum(h.length for h in gone.frames() if h.kind is DATA) == 256 * KIB)
        gone.say(WINDOW, Flag.FIN, 1, 0)
        async with asyncio.timeout(5):
            await broken.wait()


async def test_streams_over_the_limit_are_reset_one_by_one() -> None:
    few = Libp2pSettings(transport=TransportSettings(inbound_per_peer=2))
    async with listener(few) as to, stranger(to) as peer:
        for number in range(1, 61, 2):
            peer.say(WINDOW, Flag.SYN, number, 0)
        refused = await peer.hears(lambda header: Flag.RST in header.flags)
        assert refused.stream > 2 * 16
        assert not peer.lost.is_set()


async def test_a_peer_that_asks_and_never_reads_is_dropped() -> None:
    async with listener() as to, stranger(to) as deaf:
        deaf.line.wire.transport.pause_reading()
        ping = yamux.encode(Kind.PING, Flag.SYN, 0, 1) * 5000
        async with asyncio.timeout(25):
            while to._usable(deaf_id(to)) is not None:
                deaf.line.send(ping)
                await deaf.line.wire._room.wait()
                await asyncio.sleep(0)
        deaf.line.wire.transport.resume_reading()
        await deaf.is_dropped()


def deaf_id(to: Libp2pTransport) -> str:
    """The one peer that is connected, or none."""
    return next(iter(to._connections), "")


async def test_a_silent_peer_is_pinged_and_dropped_when_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "_QUIET", 0.2)
    async with listener() as to, stranger(to) as dead, Libp2pTransport(Identity.generate()) as alive:
        alive.learn(to.peer_id, to.maddrs)
        channel = await alive.open(to.peer_id, PROTOCOL)
        await dead.hears(lambda header: header.kind is Kind.PING and Flag.SYN in header.flags)
        await dead.is_dropped()
        await channel.send(Frame(b"still here"))
        assert await channel.receive() == Frame(b"still here", bytearray())


FRAMES = st.lists(
    st.tuples(
        st.sampled_from(Kind), st.integers(0, 15), st.integers(0, 6), st.integers(0, 300), st.binary(max_size=40)
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(FRAMES, st.integers(1, 50))
def test_any_frames_in_any_pieces_end_in_order(frames: list[tuple[Kind, int, int, int, bytes]], piece: int) -> None:
    """Whatever a peer says, nothing of ours fails, and the next peer is served."""

    async def attempt() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with listener() as to:
            async with stranger(to) as odd:
                data = b"".join(yamux.encode(k, Flag(f), s, n) + d for k, f, s, n, d in frames)
                for start in range(0, len(data), piece):
                    odd.line.send(data[start : start + piece])
                odd.line.send(yamux.encode(Kind.PING, Flag.SYN, 0, 1))
                await asyncio.sleep(0)
            async with Libp2pTransport(Identity.generate()) as good:
                good.learn(to.peer_id, to.maddrs)
                channel = await good.open(to.peer_id, PROTOCOL)
                await channel.send(Frame(b"good"))
                assert await channel.receive() == Frame(b"good", bytearray())
        assert not failures

    asyncio.run(attempt())


async def test_who_does_not_prove_itself_in_time_is_dropped() -> None:
    async with listener(Libp2pSettings(handshake_seconds=0.3)) as to:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(to.maddrs[0].split("/")[4]))
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                while await reader.read(100):
                    pass
                raise ConnectionResetError
        writer.close()


async def test_handshakes_and_connections_are_bounded() -> None:
    few = Libp2pSettings(handshakes=2, connections_per_peer=1)
    async with listener(few) as to:
        port = int(to.maddrs[0].split("/")[4])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: to._shaking == 2)
        reader, late = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            if not await reader.read(1):
                raise ConnectionResetError
        for _, writer in (*silent, (reader, late)):
            writer.transport.abort()
        await until(lambda: not to._shaking)
        twin = Identity.generate()
        async with Libp2pTransport(twin) as one, Libp2pTransport(twin) as two:
            for side in (one, two):
                side.learn(to.peer_id, to.maddrs)
            await one.reach(to.peer_id)
            await until(lambda: twin.peer_id in to._connections)
            with pytest.raises(PeerUnreachable):
                await two.open(to.peer_id, PROTOCOL, timeout=5)


async def test_another_peer_at_a_known_address_is_not_taken_for_the_one_we_want() -> None:
    async with listener() as there, Libp2pTransport(Identity.generate()) as own:
        wanted = Identity.generate().peer_id
        own.learn(wanted, [maddr.rpartition("/p2p/")[0] for maddr in there.maddrs])
        with pytest.raises(PeerUnreachable):
            await own.open(wanted, PROTOCOL)
        own.learn(wanted, there.maddrs)  # these name somebody else, and are not taken at all
        assert len(own._book.addresses(wanted)) == 1


async def test_an_address_that_leads_nowhere_does_not_hold_up_one_that_does() -> None:
    async with listener() as there, Libp2pTransport(Identity.generate()) as own:
        taken: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
        async with silent:
            port = silent.sockets[0].getsockname()[1]
            own.learn(there.peer_id, (f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/1", *there.maddrs))
            async with asyncio.timeout(5):
                channel = await own.open(there.peer_id, PROTOCOL)
            await channel.send(Frame(b"hello"))
            assert await channel.receive() == Frame(b"hello", bytearray())
        for writer in taken:
            writer.transport.abort()


async def test_a_connection_that_died_is_replaced_by_a_fresh_one() -> None:
    async with listener() as there, Libp2pTransport(Identity.generate()) as own:
        own.learn(there.peer_id, there.maddrs)
        first = await own.open(there.peer_id, PROTOCOL)
        for connection in list(there._connections[own.peer_id]):
            connection.abort()
        with pytest.raises(PeerError):
            await first.send(Frame(b"h"))
            await first.receive()
        again = await own.open(there.peer_id, PROTOCOL)
        await again.send(Frame(b"again"))
        assert await again.receive() == Frame(b"again", bytearray())


async def test_a_connection_that_nobody_uses_is_closed() -> None:
    async with (
        listener() as there,
        Libp2pTransport(Identity.generate(), settings=Libp2pSettings(idle_seconds=0.2)) as own,
    ):
        own.learn(there.peer_id, there.maddrs)
        channel = await own.open(there.peer_id, PROTOCOL)
        await asyncio.sleep(0.5)
        assert own._usable(there.peer_id) is not None, "a channel is open on it"
        await channel.aclose()
        await until(lambda: not (own._connections or there._connections))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3))
def test_rubbish_in_a_handshake_is_refused_and_nothing_breaks(rubbish: bytes, after: int) -> None:
    """`after`: how many good steps come before the rubbish."""

    async def attempt() -> None:
        async with listener(Libp2pSettings(handshake_seconds=0.3)) as to:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(to.maddrs[0].split("/")[4]))
            steps = [b"\x13/multistream/1.0.0\n", b"\x07/noise\n", b"\0\x20" + bytes(range(32))]
            writer.write(b"".join(steps[:after]))
            framed = len(rubbish).to_bytes(2, "big") + rubbish if after >= 2 else rubbish
            writer.write(framed)
            try:
                async with asyncio.timeout(5):
                    while await reader.read(4096):
                        pass
            except ConnectionResetError:
                pass
            writer.transport.abort()
            await until(lambda: not to._shaking)
            assert not to._connections

    asyncio.run(attempt())


@given(st.binary(min_size=12, max_size=12))
def test_a_header_is_read_and_written_alike_or_refused(data: bytes) -> None:
    try:
        header = yamux.decode(data)
    except ProtocolViolation:
        return
    assert yamux.encode(*header) == data
