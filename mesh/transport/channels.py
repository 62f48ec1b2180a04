"""What every adapter does with channels: own them, run handlers for the inbound ones, and end them all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field

from mesh.errors import PeerError, PeerUnreachable
from mesh.transport.port import Handler, PeerId
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


class Channels:
    """The channels of one transport and the tasks of their handlers."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._open: set[FrameChannel] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbound: Counter[PeerId] = Counter()
        self.closed = False

    def opened(self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> FrameChannel:
        """Take charge of a stream that we opened."""
        channel = FrameChannel(peer, reader, writer, self._settings.stream, on_close=self._open.discard)
        if self.closed:
            channel.abort("the transport is closed")
            raise PeerUnreachable("the transport is closed", peer=peer)
        self._open.add(channel)
        return channel

    def accept(
        self,
        peer: PeerId,
        protocol: str,
        handler: Handler,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Start `handler` on a stream that `peer` opened, or break it off when there are too many."""
        settings = self._settings
        full = self._inbound[peer] >= settings.inbound_per_peer or self._inbound.total() >= settings.inbound
        if full or self.closed:
            log.debug("%s: refused a channel from %s: too many are open", protocol, peer)
            writer.transport.abort()
            return
        channel = self.opened(peer, reader, writer)
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

    async def _run(self, channel: FrameChannel, handler: Handler) -> None:
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
