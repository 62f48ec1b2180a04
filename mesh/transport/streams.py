"""Frames over a byte stream: the `Channel` that every adapter with an asyncio reader and writer shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mesh.errors import FrameTruncated, InternalError, PeerUnreachable, ProtocolViolation
from mesh.transport.port import PeerId
from mesh.wire.frame import GOODBYE, PREFIX, Frame, FrameLimits, decode_prefix, encode_prefix

JOINED: Final = 64 * 1024  # frames up to this size are joined into one write
CHUNK: Final = 256 * 1024  # most bytes handed to the writer, or taken from the reader, at once
COUNTED = 64 * 1024
"""An unfinished frame smaller than this is not worth counting."""
_CLOSE_TIMEOUT = 1.0  # seconds that a close waits for what is buffered to leave


def framed(frame: Frame, limits: FrameLimits, peer: PeerId) -> tuple[bytes, memoryview]:
    """A frame's prefix, and its payload as bytes. Raises `ProtocolViolation` where it is over the limits."""
    payload = memoryview(frame.payload)
    if payload.format != "B" or payload.ndim != 1:
        payload = payload.cast("B")
    try:
        return encode_prefix(Frame(frame.header, payload), limits), payload
    except ProtocolViolation as error:
        error.peer = peer
        raise


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How much a peer may send at once, and how slowly."""

    limits: FrameLimits = field(default_factory=FrameLimits)
    frame_timeout: float = 30.0
    """Seconds in which a frame must be complete once its first byte has arrived …"""
    minimum_rate: float = 256 * 1024
    """… plus what its bytes take at this rate (bytes/s), so that a large frame may cross a slow line."""


class FrameChannel:
    """A `Channel` over an asyncio stream. See the port for its contract.

    `receive` may be cancelled at any point: the next call goes on where it stopped. A `send` cancelled inside
    a frame breaks the channel, since the rest of that frame will never come.
    """

    __slots__ = (
        "_broken",
        "_closed",
        "_deadline",
        "_ended",
        "_header",
        "_limits",
        "_on_close",
        "_on_unfinished",
        "_payload",
        "_peer",
        "_prefix",
        "_reader",
        "_sending",
        "_settings",
        "_sizes",
        "_writer",
        "heard",
    )

    def __init__(
        self,
        peer: PeerId,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        settings: StreamSettings | None = None,
        *,
        limits: FrameLimits | None = None,
        on_close: Callable[[FrameChannel], None] | None = None,
        on_unfinished: Callable[[FrameChannel, int], None] | None = None,
    ) -> None:
        """`limits` are for what comes, where they are not those of `settings`.

        `on_close` is called once, when the channel closes for whatever reason.

        `on_unfinished` is told how many bytes of a large frame have come, and 0 when it is whole.
        """
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._settings = settings or StreamSettings()
        self._limits = limits or self._settings.limits
        self._on_close = on_close
        self._on_unfinished = on_unfinished
        self.heard = time.monotonic()
        """When the last frame came."""
        self._closed = False  # we closed it, or it broke
        self._ended = False  # the peer said goodbye
        self._broken: str | None = None
        self._sending = False
        # The frame that is arriving, kept between calls so that a cancelled `receive` loses nothing.
        self._prefix = bytearray()
        self._sizes: tuple[int, int] | None = None
        self._header: bytes | None = None
        self._payload = bytearray()
        self._deadline = 0.0
        # So `drain` returns once the kernel has it all: nothing piles up; the caller may reuse its buffer.
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def closed(self) -> bool:
        """True once the channel can no longer send."""
        return self._closed

    async def send(self, frame: Frame) -> None:
        prefix, payload = framed(frame, self._settings.limits, self._peer)
        if self._closed:
            raise self._unreachable("the channel is closed")
        if self._sending:
            raise InternalError("two tasks send on one channel at a time")
        self._sending = True
        whole = False
        try:
            if len(payload) <= JOINED:
                self._writer.write(b"".join((prefix, frame.header, payload)))
            else:
                self._writer.write(prefix + frame.header)
                for start in range(0, len(payload), CHUNK):
                    await self._writer.drain()
                    self._writer.write(payload[start : start + CHUNK])
            whole = True
            await self._writer.drain()
        except OSError as error:
            self.abort(f"the connection broke: {error}")
            raise self._unreachable("the connection broke") from error
        finally:
            self._sending = False
            if not whole:
                self.abort("a frame was only partly sent")

    def try_send(self, frame: Frame) -> bool:
        return False  # only `drain` tells whether the kernel has taken what was written before

    async def receive(self) -> Frame | None:
        if self._ended:
            return None
        if self._closed:
            raise self._unreachable("the channel is closed")
        try:
            if not self._prefix:
                await self._take_prefix()
                loop = asyncio.get_running_loop()
                self._deadline = loop.time() + self._settings.frame_timeout
            async with asyncio.timeout_at(self._deadline):
                while len(self._prefix) < PREFIX.size:
                    await self._take_prefix()
            if self._prefix == GOODBYE:
                self._ended = True
                return None
            return await self._receive_rest()
        except TimeoutError:
            problem = f"a frame stalled ({len(self._payload)} bytes of its payload came)"
            self.abort(problem)
            raise FrameTruncated(problem, peer=self._peer) from None
        except OSError as error:
            self.abort(f"the connection broke: {error}")
            raise self._unreachable("the connection broke") from error
        except ProtocolViolation as error:
            error.peer = self._peer
            self.abort(str(error))
            raise

    async def _receive_rest(self) -> Frame:
        if self._sizes is None:
            self._sizes = decode_prefix(bytes(self._prefix), self._limits)
            self._deadline += sum(self._sizes) / self._settings.minimum_rate
        header_size, payload_size = self._sizes
        async with asyncio.timeout_at(self._deadline):
            if self._header is None:
                try:
                    self._header = await self._reader.readexactly(header_size)
                except asyncio.IncompleteReadError:
                    raise FrameTruncated("the stream ended inside a frame's header") from None
            # The buffer grows with what has come, not with what was promised.
            while len(self._payload) < payload_size:
                chunk = await self._reader.read(min(payload_size - len(self._payload), CHUNK))
                if not chunk:
                    raise FrameTruncated("the stream ended inside a frame's payload")
                self._payload += chunk
                if payload_size > COUNTED and self._on_unfinished is not None:
                    self._on_unfinished(self, len(self._payload))
                    if self._closed:
                        raise self._unreachable("the channel is closed")
        if payload_size > COUNTED and self._on_unfinished is not None:
            self._on_unfinished(self, 0)
        self.heard = time.monotonic()
        frame = Frame(self._header, self._payload)
        self._prefix = bytearray()
        self._sizes = self._header = None
        self._payload = bytearray()
        return frame

    async def _take_prefix(self) -> None:
        piece = await self._reader.read(PREFIX.size - len(self._prefix))
        if not piece:
            if self._prefix:
                raise FrameTruncated("the stream ended inside a frame's prefix")
            self.abort("the peer is gone")
            raise self._unreachable("the peer is gone: the stream ended without a goodbye")
        self._prefix += piece

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
        try:
            self._writer.write(GOODBYE)
            if linger > 0 and not self._ended:
                try:
                    async with asyncio.timeout(linger):
                        await self._writer.drain()
                        while await self._reader.read(CHUNK):
                            pass
                except (TimeoutError, OSError):
                    pass
            self._writer.close()
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            pass  # it is closed all the same, by the abort below
        finally:
            self._writer.transport.abort()

    def abort(self, reason: str = "the channel was aborted") -> None:
        """Break the connection: the peer gets `PeerUnreachable` or `FrameTruncated`, not a clean end."""
        self._mark_closed(reason)
        self._writer.transport.abort()

    def _mark_closed(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._broken = reason
            if self._on_close is not None:
                self._on_close(self)

    def _unreachable(self, message: str) -> PeerUnreachable:
        return PeerUnreachable(self._broken or message, peer=self._peer)
