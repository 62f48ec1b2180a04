"""The in-process twin of the real transports: the same frames over byte pipes that never leave the process.

Bytes, limits, back-pressure and the ways to end are those of the adapters over sockets, so that what is
tested on this twin holds there; `tests/conformance` runs on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from mesh.errors import InternalError, PeerUnreachable
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.port import Channel, Handler, PeerId

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class MemoryNetwork:
    """Peers that can reach each other: give the same one to several `MemoryTransport`s."""

    def __init__(self) -> None:
        self._members: dict[PeerId, MemoryTransport] = {}

    def _join(self, transport: MemoryTransport) -> None:
        if self._members.setdefault(transport.peer_id, transport) is not transport:
            raise InternalError(f"two transports with the peer id {transport.peer_id} on one network")

    def _leave(self, transport: MemoryTransport) -> None:
        if self._members.get(transport.peer_id) is transport:
            del self._members[transport.peer_id]

    def _find(self, peer: PeerId) -> MemoryTransport | None:
        return self._members.get(peer)


class MemoryTransport:
    """A `Transport` to the other members of a `MemoryNetwork`."""

    def __init__(self, peer_id: PeerId, network: MemoryNetwork, *, settings: TransportSettings | None = None) -> None:
        self._peer_id = peer_id
        self._network = network
        self._channels = Channels(settings or TransportSettings())
        self._handlers: dict[str, Handler] = {}

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def __aenter__(self) -> Self:
        self._network._join(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._network._leave(self)
        self._handlers.clear()
        await self._channels.aclose()

    async def serve(self, protocol: str, handler: Handler) -> None:
        if protocol in self._handlers:
            raise InternalError(f"{protocol} is served already")
        self._handlers[protocol] = handler

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        reader, writer = await self._dial(peer, protocol)
        return self._channels.opened(peer, reader, writer)

    async def open_raw(self, peer: PeerId, protocol: str) -> Streams:
        """The bare byte stream of a new channel: a hostile peer's view, for tests."""
        return await self._dial(peer, protocol)

    async def _dial(self, peer: PeerId, protocol: str) -> Streams:
        await asyncio.sleep(0)  # a real dial gives others a turn
        if self._channels.closed:
            raise PeerUnreachable("the transport is closed", peer=peer)
        remote = self._network._find(peer)
        if remote is None:
            raise PeerUnreachable(f"no such peer: {peer}", peer=peer)
        return connect(self._peer_id, peer, remote._channels, remote._handlers, protocol)


def connect(us: PeerId, peer: PeerId, channels: Channels, handlers: Mapping[str, Handler], protocol: str) -> Streams:
    """A stream of ours to a peer in this process, given its channels and handlers; often that is ourselves (gateway and
    provider in one node), whom no transport dials.

    Raises `PeerUnreachable` where it does not serve the protocol.
    """
    handler = handlers.get(protocol)
    if handler is None:
        raise PeerUnreachable(f"{'this node' if peer == us else 'the peer'} does not serve {protocol}", peer=peer)
    ours, theirs = pipe()
    channels.accept(us, protocol, handler, *theirs)
    return ours


def pipe() -> tuple[Streams, Streams]:
    """Two connected byte streams. Each direction holds at most two reader limits (128 KiB) and one write."""
    ends = _End(), _End()
    ends[0].connect(ends[1])
    ends[1].connect(ends[0])
    return ends[0].streams, ends[1].streams


class _End(asyncio.Transport):
    """One end of a pipe: what is written here is fed to the other end's reader at once."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=self._loop)
        self._protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        self._protocol.connection_made(self)
        self.streams: Streams = reader, asyncio.StreamWriter(self, self._protocol, reader, self._loop)
        self._other: _End
        self._paused = False  # the other end's reader is full
        self._lost = False

    def connect(self, other: _End) -> None:
        self._other = other

    # What the writer on this end calls.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._lost:
            return
        if self._other._lost:
            self._lose(BrokenPipeError("the other end is closed"))
        elif data:
            self._other._protocol.data_received(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass  # nothing is buffered on this side

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._lost

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(ConnectionResetError("the other end aborted"))

    # What the reader on this end calls.

    def pause_reading(self) -> None:
        other = self._other
        if not other._paused:
            other._paused = True
            other._protocol.pause_writing()

    def resume_reading(self) -> None:
        other = self._other
        if other._paused:
            other._paused = False
            if not other._lost:
                other._protocol.resume_writing()

    def _end(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lose(None)
        other = self._other
        if other._lost:
            return
        if error is not None or other._paused:
            other._lose(error)
        else:
            other._protocol.eof_received()

    def _lose(self, error: Exception | None) -> None:
        self._lost = True
        self._loop.call_soon(self._protocol.connection_lost, error)
