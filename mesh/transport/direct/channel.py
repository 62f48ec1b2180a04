"""A `Channel` over a direct TLS connection, made for asyncio's `BufferedProtocol`.

asyncio decrypts into the buffers of a `FrameAssembly`, the payload of a large frame itself among them. When its staging
buffer is full, reading stops until somebody receives, so a connection holds at most that buffer and one frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

from mesh.errors import FrameTruncated, InternalError, PeerUnreachable, ProtocolViolation
from mesh.transport.direct.assembly import FrameAssembly
from mesh.transport.port import PeerId
from mesh.transport.streams import CHUNK, COUNTED, JOINED, StreamSettings, framed
from mesh.wire.frame import GOODBYE, Frame, encode_prefix

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that a close waits for what is buffered to leave."""
WRITE_HIGH, WRITE_LOW = 128 * 1024, 32 * 1024
"""Encrypted bytes that wait for the socket before a sender must wait too, and below which it goes on."""


class DirectChannel(asyncio.BufferedProtocol):
    """See the `Channel` port. `peer` is empty and only `settings` of the set-up hold until `promote`.

    `receive` may be cancelled at any point: the next call goes on where it stopped. A `send` cancelled inside
    a frame breaks the channel, since the rest of that frame will never come.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self._peer: PeerId = ""
        self._settings = settings
        self._on_close: Callable[[DirectChannel], None] | None = None
        self._on_unfinished: Callable[[DirectChannel, int], None] | None = None
        self.heard = time.monotonic()
        """When the last frame came."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._gone = False  # the connection no longer exists
        self._closed = False  # we closed it, or it broke
        self._lost = False  # nothing more will arrive
        self._error: BaseException | None = None
        self._broken: str | None = None
        # Receiving
        self._assembly = FrameAssembly()
        self._begun: float | None = None  # when the frame that is arriving was first seen
        self._deadline: float | None = None
        self._paused = False
        self._discarding = False
        self._arrived: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        # Sending
        self._sending = False
        self._full = False
        self._room: asyncio.Future[None] | None = None

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def closed(self) -> bool:
        """True once the channel can no longer send."""
        return self._closed

    @property
    def connected(self) -> bool:
        """True once there is a connection to close."""
        return self._transport is not None

    @property
    def transport(self) -> asyncio.Transport:
        """The connection, once it is made."""
        if self._transport is None:
            raise InternalError("the connection is not made yet")
        return self._transport

    def promote(
        self,
        peer: PeerId,
        settings: StreamSettings,
        *,
        on_close: Callable[[DirectChannel], None] | None = None,
        on_unfinished: Callable[[DirectChannel, int], None] | None = None,
    ) -> None:
        """From now on this is a channel with `peer`. `on_close` is called once, when it closes.

        `on_unfinished` is told how many bytes of a large frame have come, and 0 when it is whole.
        """
        self._peer = peer
        self._settings = settings
        self._on_close = on_close
        self._on_unfinished = on_unfinished
        if self._closed and on_close is not None:
            on_close(self)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        if self._closed:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._assembly.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        assembly = self._assembly
        whole = assembly.filled(nbytes)
        if self._on_unfinished is not None and assembly.expected > COUNTED:
            self._on_unfinished(self, assembly.payload_filled)
            if self._closed:
                return
        if whole:
            if self._discarding:
                assembly.discard()
                return
            if assembly.full:
                self._paused = True
                self.transport.pause_reading()
            self._wake()

    def eof_received(self) -> None:
        self._lost = True
        self._wake()
        self._wake_closer()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = self._gone = True
        self._error = exc
        self._full = False
        self._wake()
        self._wake_sender()
        self._wake_closer()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake_sender()

    # Receiving

    async def receive(self) -> Frame | None:
        if self._assembly.ended:
            return None
        if self._closed:
            raise self._unreachable("the channel is closed")
        try:
            while True:
                frame = self._next_frame()
                if frame is not None or self._assembly.ended:
                    return frame
                if self._closed:
                    raise self._unreachable("the channel is closed")
                if self._lost:
                    raise self._cut_short()
                await self._wait()
        except TimeoutError:
            problem = f"a frame stalled ({self._assembly.payload_filled} bytes of its payload came)"
            self.abort(problem)
            raise FrameTruncated(problem, peer=self._peer) from None
        except ProtocolViolation as error:
            error.peer = self._peer
            self.abort(str(error))
            raise

    def _next_frame(self) -> Frame | None:
        """A frame that is complete, or None, with the deadline set if one has begun."""
        assembly = self._assembly
        frame = assembly.next(self._settings.limits)
        if frame is not None or not assembly.begun:
            self._begun = self._deadline = None
            if frame is not None:
                self.heard = self._loop.time()
                if self._on_unfinished is not None and len(frame.payload) > COUNTED:
                    self._on_unfinished(self, 0)
        else:
            if self._begun is None:
                self._begun = self._loop.time()
            rest = assembly.expected / self._settings.minimum_rate
            self._deadline = self._begun + self._settings.frame_timeout + rest
        return frame

    async def _wait(self) -> None:
        """Until something arrives. Raises `TimeoutError` at the deadline of the frame that has begun."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self._arrived is not None:
            raise InternalError("two tasks receive on one channel at a time")
        arrived = self._arrived = self._loop.create_future()
        timer = None
        if self._deadline is not None:
            timer = self._loop.call_at(self._deadline, _time_out, arrived)
        try:
            await arrived
        finally:
            self._arrived = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _cut_short(self) -> PeerUnreachable | FrameTruncated:
        if self._error is not None:
            self.abort(f"the connection broke: {self._error}")
        elif self._assembly.begun:
            return FrameTruncated("the stream ended inside a frame")
        else:
            self.abort("the peer is gone: the stream ended without a goodbye")
        return self._unreachable("the peer is gone")

    # Sending

    async def send(self, frame: Frame) -> None:
        prefix, payload = framed(frame, self._settings.limits, self._peer)
        if self._closed:
            raise self._unreachable("the channel is closed")
        if self._sending:
            raise InternalError("two tasks send on one channel at a time")
        self._sending = True
        whole = False
        try:
            self._check_open()
            if len(payload) <= JOINED:
                self.transport.write(b"".join((prefix, frame.header, payload)))
            else:
                self.transport.write(prefix + frame.header)
                for start in range(0, len(payload), CHUNK):
                    await self._drain()
                    # TLS encrypts (and so copies) at once: the caller may reuse its buffer when we return.
                    self.transport.write(payload[start : start + CHUNK])
            whole = True
            await self._drain()
        finally:
            self._sending = False
            if not whole:
                self.abort("a frame was only partly sent")

    def try_send(self, frame: Frame) -> bool:
        prefix, payload = framed(frame, self._settings.limits, self._peer)
        if self._sending or self._full or self._closed or len(payload) > JOINED:
            return False
        self._check_open()
        self.transport.write(b"".join((prefix, frame.header, payload)))
        return True

    async def _drain(self) -> None:
        self._check_open()
        if self._full:
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None
            self._check_open()

    def _check_open(self) -> None:
        if self._closed or self._lost or self.transport.is_closing():
            self.abort(f"the connection broke: {self._error}" if self._error else "the connection broke")
            raise self._unreachable("the connection broke")

    def _wake_sender(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # Closing

    async def aclose(self, *, linger: float = 0.0) -> None:
        """Say goodbye and close both directions.

        For up to `linger` seconds what still arrives is read and thrown away until the peer has closed too:
        closing while input is unread can make the kernel reset the connection and lose the last frames sent.
        """
        if self._closed:
            return
        if self._sending:
            self.abort("the channel was closed inside a frame")
            return
        self._mark_closed("the channel is closed")
        self._wake()
        self._wake_sender()
        try:
            self.transport.write(GOODBYE)
            if linger > 0 and not self._assembly.ended:
                await self._until_lost(linger)
            self.transport.close()
            if not self._gone:
                self._lost = False  # now until asyncio has closed it too
                await self._until_lost(CLOSE_TIMEOUT)
        finally:
            self.transport.abort()

    def send_now(self, frame: Frame) -> None:
        """Send a small frame without waiting for room. Raises `PeerUnreachable` once the connection is gone."""
        self._check_open()
        self.transport.write(encode_prefix(frame, self._settings.limits) + frame.header)

    def dismiss(self, last: Frame) -> None:
        """Send one small frame and close, without waiting for anything but what TLS's own timeout allows."""
        self._mark_closed("the channel was dismissed")
        self._discarding = True
        self.transport.write(encode_prefix(last, self._settings.limits) + last.header + GOODBYE)
        self.transport.close()

    async def _until_lost(self, seconds: float) -> None:
        """Throw away what arrives until the peer has closed, for at most `seconds`."""
        self._discarding = True
        self._deadline = None
        self._assembly.discard()
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self._lost:
            return
        ending = self._ending = self._loop.create_future()
        timer = self._loop.call_later(seconds, _time_out, ending)
        try:
            await ending
        except TimeoutError:
            pass
        finally:
            timer.cancel()
            self._ending = None

    def abort(self, reason: str = "the channel was aborted") -> None:
        """Break the connection: the peer gets `PeerUnreachable` or `FrameTruncated`, not a clean end."""
        self._mark_closed(reason)
        if self._transport is not None:
            self._transport.abort()
        self._wake()
        self._wake_sender()

    def _wake_closer(self) -> None:
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(None)

    def _mark_closed(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._broken = reason
            if self._on_close is not None:
                self._on_close(self)

    def _unreachable(self, message: str) -> PeerUnreachable:
        return PeerUnreachable(self._broken or message, peer=self._peer)


def _time_out(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
