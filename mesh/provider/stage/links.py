"""Outgoing ring channels: one per neighbour, opened when first needed, with a bounded buffer and a deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mesh.errors import MeshError, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.provider.stage.control import unwrap
from mesh.transport.port import Channel, PeerId, Transport
from mesh.wire.frame import Frame
from mesh.wire.messages import RING_PROTOCOL

MAX_BUFFERED_BYTES = 256 * 1024 * 1024
MAX_BUFFERED_FRAMES = 8192
ROOM_BYTES = 16 * 1024 * 1024
SEND_SECONDS = 30.0
UNUSED_CHECKS = 12
"""Consecutive checks that must find a link unused before it is closed."""


class Link:
    """Frames to one neighbour, in order."""

    def __init__(self, peer: PeerId, transport: Transport, filled: Callable[[PeerId, bool], None]) -> None:
        self.peer = peer
        self._full = self._given_up = False
        self._told = filled
        self._transport = transport
        self._channel: Channel | None = None
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self.unused_checks = 0
        self._filled = asyncio.Event()

    def push(self, frame: Frame) -> None:
        """Send a frame, or buffer it. Raises `PeerUnreachable` when the neighbour has stopped taking them."""
        if not self._frames and self._channel is not None and self._channel.try_send(frame):
            return
        if self._bytes > MAX_BUFFERED_BYTES or len(self._frames) >= MAX_BUFFERED_FRAMES:
            raise PeerUnreachable(f"the next hop {self.peer} does not take what we hand over", peer=self.peer)
        self._frames.append(frame)
        self._bytes += len(frame.payload) + len(frame.header)
        self._filled.set()
        self._tell()

    def _tell(self) -> None:
        full = self._bytes > ROOM_BYTES and not self._given_up
        if self._full is not full:
            self._full = full
            self._told(self.peer, full)

    def give_up(self) -> None:
        """Another link will take this one's place: whether this one is full matters no more."""
        self._given_up = True
        self._tell()

    async def run(self) -> MeshError | None:
        """Open the channel and send until it breaks; returns why (None: cancelled)."""
        try:
            channel = await self._transport.open(self.peer, RING_PROTOCOL)
            self._channel = channel
            async with asyncio.TaskGroup() as both:
                both.create_task(self._send(channel))
                both.create_task(self._watch(channel))
        except MeshError as error:
            return error
        except BaseExceptionGroup as group:
            known = unwrap(group)
            if known is None:
                raise
            return known
        finally:
            opened, self._channel = self._channel, None
            if opened is not None:
                await opened.aclose()
        return None

    async def _send(self, channel: Channel) -> None:
        while True:
            await self._filled.wait()
            frame = self._frames[0]
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await channel.send(frame)
            except TimeoutError as error:
                raise PeerTimeout(f"{self.peer} took nothing for {SEND_SECONDS:g} s", peer=self.peer) from error
            self._frames.popleft()
            self._bytes -= len(frame.payload) + len(frame.header)
            if not self._frames:
                self._filled.clear()
            self._tell()

    async def _watch(self, channel: Channel) -> None:
        """Nothing comes back on a ring channel but its end: noticed here even while we have nothing to send."""
        if await channel.receive() is not None:
            raise ProtocolViolation("it answered on the ring", peer=self.peer)
        raise PeerUnreachable("it closed the ring", peer=self.peer)


class Links:
    """A stage's links by neighbour.

    `broken` is told when what was pushed can no longer be delivered; `filled` when much waits to be sent, and when
    little does again: what paces prompts to the speed of the next hop.
    """

    def __init__(
        self,
        transport: Transport,
        tasks: asyncio.TaskGroup,
        broken: Callable[[PeerId, MeshError], None],
        filled: Callable[[PeerId, bool], None] = lambda peer, full: None,
    ) -> None:
        self._transport = transport
        self._tasks = tasks
        self._broken = broken
        self._filled = filled
        self._links: dict[PeerId, tuple[Link, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._links)

    def prepare(self, peer: PeerId) -> None:
        """Open the link to a neighbour already; on a long line that takes longer than what the first frame needs."""
        self._link(peer)

    def push(self, peer: PeerId, frame: Frame) -> None:
        """Send a frame to a neighbour, in order; never blocks. A full buffer breaks the link."""
        link, task = self._link(peer)
        try:
            link.push(frame)
        except PeerUnreachable as error:
            self._drop(link)
            task.cancel()
            self._broken(peer, error)

    def _link(self, peer: PeerId) -> tuple[Link, asyncio.Task[None]]:
        found = self._links.get(peer)
        if found is None:
            link = Link(peer, self._transport, self._filled)
            found = self._links[peer] = link, self._tasks.create_task(self._run(link))
        return found

    def close_unused(self, used: Callable[[PeerId], bool]) -> None:
        """Close the links that no session has needed for `UNUSED_CHECKS` calls."""
        for peer, (link, task) in list(self._links.items()):
            link.unused_checks = 0 if used(peer) else link.unused_checks + 1
            if link.unused_checks >= UNUSED_CHECKS:
                self._drop(link)
                task.cancel()

    async def _run(self, link: Link) -> None:
        error = await link.run()
        if error is not None and self._drop(link):
            self._broken(link.peer, error)

    def _drop(self, link: Link) -> bool:
        """Forget a link, unless another has taken its place."""
        found = self._links.get(link.peer)
        if found is None or found[0] is not link:
            return False
        del self._links[link.peer]
        link.give_up()
        return True
