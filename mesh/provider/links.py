"""Outgoing ring channels: one per neighbour, opened when first needed, with a bounded buffer and a deadline."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from mesh.errors import MeshError, PeerUnreachable
from mesh.transport.port import Channel, PeerId, Transport
from mesh.wire.frame import Frame
from mesh.wire.messages import RING_PROTOCOL

logger = logging.getLogger(__name__)

MAX_BUFFERED_BYTES = 256 * 1024 * 1024
MAX_BUFFERED_FRAMES = 8192
ROOM_BYTES = 16 * 1024 * 1024
SEND_SECONDS = 30.0


class Link:
    """Frames to one neighbour, in order. `broken` is told when they can no longer be delivered."""

    def __init__(self, peer: PeerId, transport: Transport, broken: Callable[[PeerId, MeshError], None]) -> None:
        self.peer = peer
        self._transport = transport
        self._broken = broken
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def push(self, frame: Frame) -> None:
        """Buffer a frame. Raises `PeerUnreachable` when the neighbour has stopped taking them."""
        if self._bytes > MAX_BUFFERED_BYTES or len(self._frames) >= MAX_BUFFERED_FRAMES:
            raise PeerUnreachable(f"the next hop {self.peer} does not take what we hand over", peer=self.peer)
        self._frames.append(frame)
        self._bytes += len(frame.payload) + len(frame.header)
        self._filled.set()
        if self._bytes > ROOM_BYTES:
            self._room.clear()

    async def wait_for_room(self) -> None:
        """Return once little is buffered: what paces a prompt to the speed of the next hop."""
        await self._room.wait()

    async def run(self) -> None:
        """Open the channel and send until it breaks; then tell `broken` and return."""
        channel: Channel | None = None
        try:
            channel = await self._transport.open(self.peer, RING_PROTOCOL)
            while True:
                await self._filled.wait()
                frame = self._frames[0]
                async with asyncio.timeout(SEND_SECONDS):
                    await channel.send(frame)
                self._frames.popleft()
                self._bytes -= len(frame.payload) + len(frame.header)
                if not self._frames:
                    self._filled.clear()
                if self._bytes <= ROOM_BYTES:
                    self._room.set()
        except TimeoutError:
            self._broken(self.peer, PeerUnreachable(f"{self.peer} took nothing for {SEND_SECONDS:g} s", peer=self.peer))
        except MeshError as error:
            self._broken(self.peer, error)
        finally:
            self._room.set()
            if channel is not None:
                await channel.aclose()
