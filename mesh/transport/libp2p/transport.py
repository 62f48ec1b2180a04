"""The transport over libp2p's own protocols without the Go daemon: streams to peers whose addresses we know."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from mesh.errors import ConfigError, InternalError, PeerError, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.identity import Identity, public_key_of
from mesh.transport import _libp2p
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.direct.liveness import tune
from mesh.transport.libp2p import circuit, negotiation
from mesh.transport.libp2p.addresses import Address, AddressBook, tcp_address
from mesh.transport.libp2p.line import Shaker, Wire
from mesh.transport.libp2p.muxed_stream import MuxedStream
from mesh.transport.libp2p.muxer import Muxer
from mesh.transport.libp2p.negotiation import StreamBytes
from mesh.transport.memory import Streams, connect
from mesh.transport.port import Channel, Handler, PeerId
from mesh.wire.circuit import HOP_PROTOCOL

log = logging.getLogger(__name__)

_STAGGER: Final = 0.25  # seconds before the next address is tried beside one that has not answered (RFC 8305)


@dataclass(frozen=True, slots=True)
class Libp2pSettings:
    """Bounds and deadlines (seconds)."""

    transport: TransportSettings = field(default_factory=TransportSettings)
    dial_seconds: float = 10.0
    """For one connection, handshakes included."""
    handshake_seconds: float = 10.0
    """For those who dialled us to prove who they are, and for a stream to say what it speaks."""
    handshakes: int = 64
    """Of those at a time; one more is broken off."""
    inbound_connections: int = 256
    connections_per_peer: int = 4
    idle_seconds: float = 120.0
    """How long a connection without streams is kept."""


class Libp2pTransport:
    """A `Transport` whose peers are dialled by TCP, through relays too. Noise proves them. Use as `async with`.

    It finds nobody by itself: tell it addresses with `learn`.
    """

    def __init__(
        self, identity: Identity, *, listen: tuple[str, ...] = (), settings: Libp2pSettings | None = None
    ) -> None:
        """`listen`: multiaddrs like `/ip4/127.0.0.1/tcp/0`; none accepts streams only on connections that we made."""
        self._identity = identity
        self._listen = listen
        self._settings = settings or Libp2pSettings()
        self._channels = Channels(self._settings.transport)
        self._handlers: dict[str, Handler] = {}
        self._book = AddressBook()
        self._connections: dict[PeerId, list[Muxer]] = {}
        self._dials: dict[PeerId, asyncio.Task[Muxer]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking = 0
        self._inbound = 0
        self._shaker: Shaker
        self._stack = contextlib.AsyncExitStack()
        self.maddrs: tuple[str, ...] = ()
        """Where we listen, each ending in `/p2p/PEER_ID`."""

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` when we cannot listen."""
        await asyncio.to_thread(_libp2p.load)  # takes a second the first time
        self._shaker = Shaker(self._identity)
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            for maddr in self._listen:
                read = tcp_address(maddr)
                if read is None or read[0].relay is not None:
                    raise ConfigError(f"cannot listen on {maddr}: an address is written like /ip4/0.0.0.0/tcp/31330")
                try:
                    server = await loop.create_server(lambda: Wire(self._dialled), read[0].host, read[0].port)
                except OSError as error:
                    raise ConfigError(f"cannot listen on {maddr}: {error.strerror or error}") from error
                stack.callback(server.close)
                self.maddrs += tuple(f"{_maddr(sock.getsockname())}/p2p/{self.peer_id}" for sock in server.sockets)
            sweeper = asyncio.create_task(self._sweep(), name="libp2p sweep")
            stack.callback(sweeper.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channels.closed = True
        self._handlers.clear()
        await self._stack.aclose()
        await self._channels.aclose()
        unfinished = {*self._dials.values(), *self._tasks}
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
        for connections in list(self._connections.values()):
            for connection in list(connections):
                connection.abort("the transport is closed")
        await asyncio.sleep(0)  # lets asyncio close the sockets of what was aborted

    def learn(self, peer: PeerId, maddrs: Iterable[str]) -> None:
        """`peer` may be dialled at `maddrs`; what is not TCP is ignored. Believe signed records only."""
        self._book.learn(peer, maddrs)

    def knows(self, peer: PeerId) -> bool:
        """True when there is a connection to `peer`, or an address to dial."""
        return self._usable(peer) is not None or bool(self._book.addresses(peer))

    async def reach(self, peer: PeerId, *, timeout: float = 10.0) -> None:
        """Connect to `peer`, unless we are connected. Raises `PeerUnreachable` or `PeerTimeout`."""
        if self._channels.closed:
            raise PeerUnreachable("the transport is closed", peer=peer)
        try:
            async with asyncio.timeout(timeout):
                if self._usable(peer) is None:
                    await self._connect(peer)
        except TimeoutError:
            raise PeerTimeout(f"{peer} could not be reached in {timeout:g} s", peer=peer) from None

    async def disconnect(self, peer: PeerId) -> None:
        """Break off every connection to `peer`: one whose line is cut would be used until that is noticed."""
        for connection in list(self._connections.get(peer, ())):
            connection.abort("the peer fell silent")

    async def serve(self, protocol: str, handler: Handler) -> None:
        if protocol in self._handlers:
            raise InternalError(f"{protocol} is served already")
        self._handlers[protocol] = handler

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        reader, writer = await self.open_raw(peer, protocol, timeout=timeout)
        return self._channels.opened(peer, reader, writer)

    async def open_raw(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Streams:
        """The bare byte stream of a new channel: a hostile peer's view, for tests."""
        if self._channels.closed:
            raise PeerUnreachable("the transport is closed", peer=peer)
        if peer == self.peer_id:
            return connect(peer, peer, self._channels, self._handlers, protocol)
        try:
            async with asyncio.timeout(timeout):
                return await self._open(peer, protocol)
        except TimeoutError:
            raise PeerTimeout(f"{peer} could not be reached in {timeout:g} s", peer=peer) from None
        except (OSError, PeerError) as error:
            raise PeerUnreachable(f"{peer} cannot be reached for {protocol}: {error}", peer=peer) from error

    async def _open(self, peer: PeerId, protocol: str) -> Streams:
        for last in (False, True):
            known = self._usable(peer)
            connection = known or await self._connect(peer)
            stream = connection.open()
            try:
                await negotiation.propose(StreamBytes(stream.reader, stream.writer), protocol)
            except OSError:
                # A connection that we found may have died unnoticed: then a fresh one is worth a try.
                stream.abort()
                if last or known is None or not connection.lost:
                    raise
            except BaseException:
                stream.abort()
                raise
            else:
                return stream.reader, stream.writer
        raise AssertionError("unreachable")

    # Connections.

    def _usable(self, peer: PeerId) -> Muxer | None:
        alive = [muxer for muxer in self._connections.get(peer, ()) if not (muxer.lost or muxer.going_away)]
        return alive[-1] if alive else None

    async def _connect(self, peer: PeerId) -> Muxer:
        """A new connection; those who ask at the same time share it."""
        dial = self._dials.get(peer)
        if dial is None:
            dial = asyncio.create_task(self._dial(peer), name=f"dialling {peer}")
            self._dials[peer] = dial
            dial.add_done_callback(partial(self._dial_done, peer))
        return await asyncio.shield(dial)

    def _dial_done(self, peer: PeerId, dial: asyncio.Task[Muxer]) -> None:
        del self._dials[peer]
        if not dial.cancelled():
            dial.exception()  # those who waited have it; maybe nobody waits any more

    async def _dial(self, peer: PeerId) -> Muxer:
        """The first of the peer's addresses that leads to it wins; each gets a head start before the next is tried."""
        try:
            public_key_of(peer)
        except ValueError as error:
            raise PeerUnreachable(str(error), peer=peer) from None
        waiting = list(self._book.addresses(peer))
        if not waiting:
            raise PeerUnreachable("nobody has told where it can be dialled", peer=peer)
        running: dict[asyncio.Task[Muxer], Address] = {}
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._settings.dial_seconds):
                while waiting or running:
                    if waiting:
                        address = waiting.pop(0)
                        running[asyncio.create_task(self._dial_address(peer, address))] = address
                    done, _ = await asyncio.wait(
                        running, timeout=_STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        address = running.pop(task)
                        try:
                            muxer = task.result()
                        except (OSError, PeerError) as error:
                            failure = error
                        else:
                            self._book.worked(peer, address)
                            return muxer
        except TimeoutError:
            raise PeerTimeout("none of its addresses answered in time", peer=peer) from None
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
                for task in running:
                    if not task.cancelled():
                        task.exception()
        raise PeerUnreachable(f"none of its addresses leads to it: {failure}", peer=peer) from failure

    async def _dial_address(self, peer: PeerId, address: Address) -> Muxer:
        loop = asyncio.get_running_loop()
        if address.relay is not None:
            relay = self._usable(address.relay)
            if relay is None:
                relay = await self._dial_address(address.relay, address._replace(relay=None))
            wire = await self._circuit(relay, peer)
        else:
            _, wire = await loop.create_connection(Wire, address.host, address.port)
        try:
            _tune(wire)
            line = await self._shaker.dial(wire, peer)
        except BaseException:
            wire.abort()
            raise
        muxer = self._muxer(line, dialled=True)
        muxer.start()
        return muxer

    async def _circuit(self, relay: Muxer, peer: PeerId) -> Wire:
        """A connection to `peer` on a stream through `relay`."""
        wire = Wire()
        stream = relay.open(wire)
        try:
            await negotiation.propose(wire, HOP_PROTOCOL)
            await circuit.connect(wire, peer)
        except BaseException:
            stream.abort()
            raise
        return wire

    def _dialled(self, wire: Wire) -> None:
        settings = self._settings
        if (
            self._channels.closed
            or self._shaking >= settings.handshakes
            or self._inbound >= settings.inbound_connections
        ):
            wire.abort()
            return
        self._shaking += 1
        self._spawn(self._admit(wire), "libp2p handshake")

    async def _admit(self, wire: Wire) -> None:
        try:
            _tune(wire)
            async with asyncio.timeout(self._settings.handshake_seconds):
                line = await self._shaker.admit(wire)
        except (OSError, ProtocolViolation, TimeoutError) as error:
            log.debug("somebody dialled us and did not prove who it is: %s", error)
            wire.abort()
            return
        except BaseException:
            wire.abort()
            raise
        finally:
            self._shaking -= 1
        if len(self._connections.get(line.peer, ())) >= self._settings.connections_per_peer:
            log.debug("%s has too many connections", line.peer)
            wire.abort()
            return
        self._muxer(line, dialled=False).start()

    def _muxer(self, line: Any, *, dialled: bool) -> Muxer:
        muxer = Muxer(
            line,
            dialled=dialled,
            # A few more than may become channels: some are still being negotiated, or just closing.
            max_inbound=self._settings.transport.inbound_per_peer + 16,
            on_stream=self._stream_came,
            on_lost=partial(self._forget, inbound=not dialled),
        )
        self._inbound += not dialled
        self._connections.setdefault(line.peer, []).append(muxer)
        return muxer

    def _forget(self, muxer: Muxer, *, inbound: bool) -> None:
        self._inbound -= inbound
        connections = self._connections[muxer.peer]
        connections.remove(muxer)
        if not connections:
            del self._connections[muxer.peer]

    async def _sweep(self) -> None:
        """Close connections that nobody has used for a while."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.idle_seconds / 4)
            for connections in list(self._connections.values()):
                for muxer in list(connections):
                    if not muxer.streams and loop.time() - muxer.idle_since > self._settings.idle_seconds:
                        muxer.abort("nobody used the connection")

    # Streams that peers open.

    def _stream_came(self, stream: MuxedStream) -> None:
        if self._channels.closed:
            stream.abort()
            return
        self._spawn(self._accept(stream), f"stream of {stream.peer}")

    async def _accept(self, stream: MuxedStream) -> None:
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                protocol = await negotiation.respond(StreamBytes(stream.reader, stream.writer), self._handlers)
        except (OSError, ProtocolViolation, TimeoutError) as error:
            log.debug("a stream of %s came to nothing: %s", stream.peer, error)
            stream.abort()
            return
        except BaseException:
            stream.abort()
            raise
        handler = self._handlers.get(protocol)
        if handler is None:  # we are closing
            stream.abort()
            return
        self._channels.accept(stream.peer, protocol, handler, stream.reader, stream.writer)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("bug in %s", task.get_name(), exc_info=task.exception())


def _tune(wire: Wire) -> None:
    sock = wire.transport.get_extra_info("socket")
    if sock is not None:
        tune(sock)


def _maddr(name: tuple[Any, ...]) -> str:
    host = ipaddress.ip_address(str(name[0]).partition("%")[0])
    return f"/ip{host.version}/{host}/tcp/{name[1]}"
