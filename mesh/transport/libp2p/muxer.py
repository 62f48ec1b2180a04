"""yamux over an encrypted line: many streams, each with a reader and a writer, none of which can stall the others.

py-libp2p's muxer is not used: it only warns when a peer sends more than its window allows, and keeps it all; it gives a
write up when the window stays closed for 5 s, polls for it every 10 ms, and needs trio. Here a frame is checked against
what its stream was granted before any of it is kept, and a closed window is back-pressure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from mesh.errors import PeerUnreachable, ProtocolViolation
from mesh.transport.libp2p.line import Line
from mesh.transport.libp2p.muxed_stream import MuxedStream
from mesh.transport.libp2p.yamux_frames import (
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_WINDOW,
    Flag,
    Header,
    Kind,
    decode,
    encode,
)

log = logging.getLogger(__name__)

OWN_WINDOW: Final = 1024 * 1024
"""Bytes that a peer may send ahead on a stream that we opened; on one that it opened, `INITIAL_WINDOW`."""
_SKIP: Final = 16 * 1024 * 1024  # bytes of one frame for a stream that is gone
_LINGER: Final = 30.0  # seconds that we remember a stream that we closed and the peer did not
_QUIET: Final = 15.0  # seconds between looks whether a silent peer is still there, and to answer that
_MAX_REPLIES: Final = 1024 * 1024  # bytes of answers that may wait for a peer that does not read


class Muxer:
    """One connection's streams."""

    def __init__(
        self,
        line: Line,
        *,
        dialled: bool,
        max_inbound: int,
        on_stream: Callable[[MuxedStream], None],
        on_lost: Callable[[Muxer], None],
    ) -> None:
        """`dialled`: we made the connection. `max_inbound`: streams that the peer may have open at once."""
        self._line = line
        self._dialled = dialled
        self._next = 1 if dialled else 2
        self._max_inbound = max_inbound
        self._on_stream = on_stream
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, MuxedStream] = {}
        self._closing: OrderedDict[int, float] = OrderedDict()
        self._waiting: OrderedDict[int, MuxedStream] = OrderedDict()  # have bytes to send, in turn
        self._header = bytearray()
        self._body: tuple[MuxedStream | None, Flag, int] | None = None
        self._heard = self.idle_since = self._loop.time()
        self._asked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.lost = False
        self.going_away = False

    @property
    def peer(self) -> str:
        """Who is at the other end, as the handshake proved it."""
        return self._line.peer

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def start(self) -> None:
        """Begin to read."""
        self._timer = self._loop.call_later(_QUIET, self._look)
        self._line.start(self._received, self._pump, self._ended)

    def open(self, protocol: asyncio.Protocol | None = None) -> MuxedStream:
        """A new stream, for `protocol` if one is given.

        Raises `PeerUnreachable` once the connection is lost or the peer wants no more.
        """
        if self.lost or self.going_away:
            raise PeerUnreachable("the connection is lost", peer=self.peer)
        stream = MuxedStream(self, self._next, granted=OWN_WINDOW, room=INITIAL_WINDOW, protocol=protocol)
        self._next += 2
        self._streams[stream.id] = stream
        self._control(Kind.WINDOW, Flag.SYN, stream.id, OWN_WINDOW - INITIAL_WINDOW)
        return stream

    def abort(self, reason: str = "the connection was broken off") -> None:
        """Break the connection and every stream."""
        if not self.lost:
            self._line.wire.abort()
            self._ended(ConnectionResetError(reason))

    # What the streams ask for.

    def wants_to_send(self, stream: MuxedStream) -> None:
        """`stream` has bytes, and room at the peer for some of them."""
        self._waiting[stream.id] = stream
        self._pump()

    def send(self, stream: int, data: bytes | memoryview) -> None:
        """One frame of data."""
        self._line.send(b"".join((encode(Kind.DATA, Flag(0), stream, len(data)), data)))

    def grant(self, stream: int, more: int) -> None:
        """The peer may send `more` bytes on `stream`."""
        self._control(Kind.WINDOW, Flag(0), stream, more)

    def finish(self, stream: int, *, heard_end: bool) -> None:
        """`stream` has sent all it had and is closed."""
        if self._streams.pop(stream, None) is None:
            return
        self._control(Kind.WINDOW, Flag.FIN, stream, 0)
        if not heard_end:
            self._closing[stream] = self._loop.time() + _LINGER
        self._note_idle()

    def reset(self, stream: int) -> None:
        """`stream` was broken off."""
        self._waiting.pop(stream, None)
        if self._streams.pop(stream, None) is not None:
            self._control(Kind.WINDOW, Flag.RST, stream, 0)
            self._note_idle()

    # What the line tells.

    def _received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self._parse(memoryview(data))
        except ProtocolViolation as error:
            log.info("%s broke the rules of yamux: %s", self.peer, error)
            self._control(Kind.GO_AWAY, Flag(0), 0, 1)
            self.abort(f"the peer broke the rules of yamux: {error}")

    def _parse(self, data: memoryview) -> None:
        while data and not self.lost:
            if self._body is None:
                need = HEADER_SIZE - len(self._header)
                self._header += data[:need]
                data = data[need:]
                if len(self._header) == HEADER_SIZE:
                    header = decode(self._header)
                    self._header.clear()
                    self._frame(header)
                continue
            stream, flags, left = self._body
            piece = data[:left]
            data = data[left:]
            left -= len(piece)
            self._body = (stream, flags, left) if left else None
            if stream is not None:
                stream.received(bytes(piece))
                if not left:
                    self._flags(stream, flags)

    def _frame(self, header: Header) -> None:
        match header.kind:
            case Kind.PING:
                if Flag.SYN in header.flags:
                    self._control(Kind.PING, Flag.ACK, 0, header.length)
            case Kind.GO_AWAY:
                self.going_away = True
                if not self._streams:
                    self.abort("the peer said goodbye")
            case Kind.WINDOW:
                stream = self._stream(header)
                if stream is not None:
                    if not stream.more_room(header.length, limit=MAX_WINDOW):
                        raise ProtocolViolation("a window that is too large")
                    self._flags(stream, header.flags)
            case Kind.DATA:
                stream = self._stream(header)
                if stream is None and header.length > _SKIP:
                    raise ProtocolViolation(f"{header.length} bytes on a stream that is closed")
                if stream is not None and not stream.expect(header.length):
                    raise ProtocolViolation(f"{header.length} bytes, which is more than the window")
                if header.length:
                    self._body = stream, header.flags, header.length
                elif stream is not None:
                    self._flags(stream, header.flags)

    def _stream(self, header: Header) -> MuxedStream | None:
        """The stream of a frame, made if the peer opens it; None for one that is gone."""
        stream = self._streams.get(header.stream)
        if Flag.SYN in header.flags:
            if stream is not None or (header.stream % 2 == 1) == self._dialled:
                raise ProtocolViolation(f"stream {header.stream} is not the peer's to open")
            if sum(number % 2 == header.stream % 2 for number in self._streams) >= self._max_inbound:
                self._control(Kind.WINDOW, Flag.RST, header.stream, 0)
                return None
            self._closing.pop(header.stream, None)
            stream = self._streams[header.stream] = MuxedStream(
                self, header.stream, granted=INITIAL_WINDOW, room=INITIAL_WINDOW
            )
            self._control(Kind.WINDOW, Flag.ACK, stream.id, 0)
            self._on_stream(stream)
        elif stream is None and header.stream in self._closing:
            if header.flags & (Flag.FIN | Flag.RST):
                del self._closing[header.stream]
            elif header.kind is Kind.DATA:
                # As TCP does: who still sends to what we closed is told that nobody reads it.
                del self._closing[header.stream]
                self._control(Kind.WINDOW, Flag.RST, header.stream, 0)
        return stream

    def _flags(self, stream: MuxedStream, flags: Flag) -> None:
        if Flag.RST in flags:
            self._waiting.pop(stream.id, None)
            if self._streams.pop(stream.id, None) is not None:
                self._note_idle()
            stream.was_reset()
        elif Flag.FIN in flags:
            stream.heard_end()

    def _pump(self) -> None:
        """Send what waits, a frame of each stream in turn, while the line takes it."""
        while self._waiting and not self._line.wire.full and not self.lost:
            _, stream = self._waiting.popitem(last=False)
            if stream.send_some():
                self._waiting[stream.id] = stream

    def _control(self, kind: Kind, flags: Flag, stream: int, length: int) -> None:
        if self.lost:
            return
        self._line.send(encode(kind, flags, stream, length))
        if self._line.wire.transport.get_write_buffer_size() > _MAX_REPLIES:
            self._loop.call_soon(self.abort, "the peer asks and does not read the answers")

    def _note_idle(self) -> None:
        if not self._streams:
            self.idle_since = self._loop.time()
            if self.going_away:
                self._loop.call_soon(self.abort, "the peer said goodbye")

    def _look(self) -> None:
        """Now and then: is the peer there, and is there something to forget?"""
        now = self._loop.time()
        while self._closing and next(iter(self._closing.values())) < now:
            stream, _ = self._closing.popitem(last=False)
            self._control(Kind.WINDOW, Flag.RST, stream, 0)
        if self._heard < self._asked:
            self.abort(f"the peer did not answer a ping within {_QUIET:g} s")
            return
        if now - self._heard > _QUIET / 2:
            self._asked = now
            self._control(Kind.PING, Flag.SYN, 0, 0)
        self._timer = self._loop.call_later(_QUIET, self._look)

    def _ended(self, error: Exception) -> None:
        if self.lost:
            return
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        streams = list(self._streams.values())
        self._streams.clear()
        self._waiting.clear()
        self._body = None
        for stream in streams:
            stream.was_reset(str(error))
        self._on_lost(self)
