"""A yamux stream as an asyncio transport: readers, writers and the channels over them work on it as on a socket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from mesh.transport.libp2p.line import MAX_PLAIN
from mesh.transport.libp2p.yamux_frames import HEADER_SIZE

if TYPE_CHECKING:
    from mesh.transport.libp2p.muxer import Muxer

_MAX_DATA: Final = MAX_PLAIN - HEADER_SIZE  # so that a frame is one encrypted message
_READER_LIMIT: Final = 256 * 1024


class MuxedStream(asyncio.Transport):
    """One end of a stream.

    What the peer may send is granted anew only while the reader takes it, so at most the window and twice the reader's
    limit are ever held here.
    """

    def __init__(
        self, muxer: Muxer, number: int, *, granted: int, room: int, protocol: asyncio.Protocol | None = None
    ) -> None:
        """`granted`: bytes that the peer may send; `room`: bytes that we may.

        Bytes go to `reader`, or to a `protocol` that is given, which then has the stream to itself.
        """
        super().__init__()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._muxer = muxer
        self.id = number
        self._window = granted
        self._granted = granted
        self._owed = 0  # bytes that have been read and not granted anew
        self._room = room
        self._pending: deque[memoryview] = deque()
        self._closing = False
        self._ended = False  # the peer will send no more
        self._lost = False
        self._reading = True
        self._writing = True
        self.reader = asyncio.StreamReader(limit=_READER_LIMIT, loop=loop)
        streams = asyncio.StreamReaderProtocol(self.reader, loop=loop)
        self._protocol = protocol or streams
        self._protocol.connection_made(self)
        self.writer = asyncio.StreamWriter(self, streams, self.reader, loop)

    @property
    def peer(self) -> str:
        """Who is at the other end of the connection."""
        return self._muxer.peer

    # What the writer calls.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._lost or self._closing or not data:
            return
        # A view: whoever reuses its buffer waits for `drain` first, and that waits until all is sent.
        self._pending.append(memoryview(data).cast("B"))
        if self._room:
            self._muxer.wants_to_send(self)
        if self._pending and self._writing:
            self._writing = False
            self._protocol.pause_writing()
        self._give_up_if_stuck()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass  # the writer waits whenever anything is left

    def get_write_buffer_size(self) -> int:
        return sum(len(piece) for piece in self._pending)

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        if not self._pending:
            self._finish()

    def abort(self) -> None:
        if not self._lost:
            self._muxer.reset(self.id)
            self._lose(None)

    # What the reader calls.

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._grant()

    # What the muxer calls.

    def send_some(self) -> bool:
        """Send one frame; True when there is more, and room for it."""
        if self._lost or not self._pending or not self._room:
            return False
        piece = self._pending.popleft()
        size = min(len(piece), self._room, _MAX_DATA)
        self._room -= size
        self._muxer.send(self.id, piece[:size])
        if size < len(piece):
            self._pending.appendleft(piece[size:])
        if self._pending:
            self._give_up_if_stuck()
            return self._room > 0
        if not self._writing:
            self._writing = True
            self._protocol.resume_writing()
        if self._closing:
            self._finish()
        return False

    def more_room(self, more: int, *, limit: int) -> bool:
        """The peer granted `more` bytes; False when that is too much."""
        if self._room + more > limit:
            return False
        self._room += more
        if self._pending and more:
            self._muxer.wants_to_send(self)
        return True

    def expect(self, size: int) -> bool:
        """The peer announces `size` bytes; False when it may not send so many."""
        if size > self._window:
            return False
        self._window -= size
        return True

    def received(self, data: bytes) -> None:
        """Some of the announced bytes."""
        if self._lost or self._ended:
            return
        self._owed += len(data)
        self._protocol.data_received(data)
        self._grant()

    def heard_end(self) -> None:
        """The peer has closed."""
        if not self._ended and not self._lost:
            self._ended = True
            if not self._protocol.eof_received():
                self.close()
            self._give_up_if_stuck()

    def was_reset(self, reason: str = "the peer reset the stream") -> None:
        """The stream, or its connection, was broken off."""
        if not self._lost:
            self._lose(ConnectionResetError(reason))

    def _grant(self) -> None:
        if self._reading and self._owed * 2 >= self._granted and not (self._lost or self._ended):
            more, self._owed = self._owed, 0
            self._window += more
            self._muxer.grant(self.id, more)

    def _give_up_if_stuck(self) -> None:
        """A peer that has closed and left no room reads no more: the Go daemon says nothing but FIN then."""
        if self._ended and self._pending and not self._room and not self._lost:
            self._muxer.reset(self.id)
            self._lose(BrokenPipeError("the peer has closed the stream"))

    def _finish(self) -> None:
        if not self._lost:
            self._muxer.finish(self.id, heard_end=self._ended)
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        self._lost = True
        self._pending.clear()
        self._loop.call_soon(self._protocol.connection_lost, error)
