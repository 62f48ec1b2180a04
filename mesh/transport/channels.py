"""What every adapter does with channels: own them, run handlers for the inbound ones, and end them all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from mesh.errors import PeerError, PeerUnreachable
from mesh.transport.port import Channel, Handler, PeerId
from mesh.transport.streams import FrameChannel, StreamSettings

log = logging.getLogger(__name__)

_CANCEL_TIMEOUT = 5.0  # seconds for the handlers to end once they are cancelled


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """The bounds of a transport. Inbound channels over a bound are broken off at once."""

    stream: StreamSettings = field(default_factory=StreamSettings)
    inbound_per_peer: int = 64
    inbound: int = 1024
    linger: float = 1.0
    """Seconds that an inbound channel waits for the peer to close too once its handler has returned."""


class OwnedChannel(Channel, Protocol):
    """A channel as its transport sees it."""

    @property
    def closed(self) -> bool:
        """True once the channel can no longer send."""

    async def aclose(self, *, linger: float = 0.0) -> None:
        """Close cleanly; for up to `linger` seconds wait for the peer to close too."""

    def abort(self, reason: str = ...) -> None:
        """Break the connection."""


class Channels:
    """The channels of one transport and the tasks of their handlers."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._open: set[OwnedChannel] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbound: Counter[PeerId] = Counter()
        self.closed = False

    def opened(self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> FrameChannel:
        """Take charge of a stream that we opened."""
        channel = FrameChannel(peer, reader, writer, self._settings.stream, on_close=self.forget)
        self.adopt(channel)
        return channel

    def adopt(self, channel: OwnedChannel) -> None:
        """Take charge of a channel, which calls `forget` when it closes. Raises `PeerUnreachable` once we closed."""
        if self.closed:
            channel.abort("the transport is closed")
            raise PeerUnreachable("the transport is closed", peer=channel.peer)
        if not channel.closed:
            self._open.add(channel)

    def forget(self, channel: OwnedChannel) -> None:
        """The channel has closed."""
        self._open.discard(channel)

    def has_room(self, peer: PeerId) -> bool:
        """True while `peer` may open another channel."""
        settings = self._settings
        return (
            not self.closed
            and self._inbound[peer] < settings.inbound_per_peer
            and self._inbound.total() < settings.inbound
        )

    def accept(
        self,
        peer: PeerId,
        protocol: str,
        handler: Handler,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Start `handler` on a stream that `peer` opened, or break it off when there are too many."""
        if not self.has_room(peer):
            log.debug("%s: refused a channel from %s: too many are open", protocol, peer)
            writer.transport.abort()
            return
        self.handle(self.opened(peer, reader, writer), protocol, handler)

    def handle(self, channel: OwnedChannel, protocol: str, handler: Handler) -> None:
        """Start `handler` on an inbound channel that was adopted."""
        peer = channel.peer
        self._inbound[peer] += 1
        task = asyncio.create_task(self._run(channel, handler), name=f"{protocol} {peer}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._inbound[peer] -= 1
            if not self._inbound[peer]:
                del self._inbound[peer]
            channel.abort()  # a task that was cancelled before its first step never reached its `finally`
            error = None if task.cancelled() else task.exception()
            if isinstance(error, PeerError):
                log.info("%s: channel with %s ended: %s", protocol, peer, error)
            elif error is not None:
                log.error("%s: bug in the handler (peer %s)", protocol, peer, exc_info=error)

        task.add_done_callback(ended)

    async def _run(self, channel: OwnedChannel, handler: Handler) -> None:
        try:
            await handler(channel)
            await channel.aclose(linger=self._settings.linger)
        finally:
            channel.abort("the handler ended")  # after a clean close this does nothing

    async def aclose(self) -> None:
        """Cancel every handler, wait for all of them, break off every channel."""
        self.closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_CANCEL_TIMEOUT)
            for task in stuck:
                log.error("bug: the handler of %s ignores its cancellation", task.get_name())
        for channel in tuple(self._open):
            channel.abort("the transport is closed")
        await asyncio.sleep(0)  # lets asyncio close the sockets of what was aborted
