"""What every adapter does with channels: own them, run handlers for the inbound ones, and end them all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mesh.errors import PeerError, PeerUnreachable
from mesh.transport.port import Channel, Handler, PeerId
from mesh.transport.quotas import Rates, Unfinished
from mesh.transport.streams import FrameChannel, StreamSettings
from mesh.wire.frame import FrameLimits

log = logging.getLogger(__name__)

_CANCEL_TIMEOUT = 5.0  # seconds for the handlers to end once they are cancelled


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """The bounds of a transport. Inbound channels over a peer's own bounds are broken off at once.

    Where all places are taken, whoever has the most gives one up to a peer with fewer.
    """

    stream: StreamSettings = field(default_factory=StreamSettings)
    inbound_per_peer: int = 64
    inbound: int = 1024
    inbound_limits: Mapping[str, FrameLimits] = field(default_factory=dict)
    """For protocols on which less may come than on others; what we ask for ourselves is not bound by it."""
    openings_per_second: float = 20.0
    """Channels that a peer may open in the long run …"""
    openings_at_once: float = 128.0
    """… and at once."""
    unfinished: int = 256 * 1024 * 1024
    """Bytes of frames that are not whole yet, of all peers together …"""
    unfinished_per_peer: int = 96 * 1024 * 1024
    """… and of one."""
    linger: float = 1.0
    """Seconds that an inbound channel waits for the peer to close too once its handler has returned."""


class OwnedChannel(Channel, Protocol):
    """A channel as its transport sees it."""

    @property
    def closed(self) -> bool:
        """True once the channel can no longer send."""

    @property
    def heard(self) -> float:
        """When the last frame came (monotonic; before the first one: when the channel began)."""

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
        self._entered: set[OwnedChannel] = set()
        self._openings = Rates(settings.openings_per_second, settings.openings_at_once)
        self._unfinished = Unfinished[OwnedChannel](
            total=settings.unfinished, per_peer=settings.unfinished_per_peer, peer_of=lambda channel: channel.peer
        )
        self.closed = False

    def opened(
        self,
        peer: PeerId,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        limits: FrameLimits | None = None,
    ) -> FrameChannel:
        """Take charge of a stream that we opened. `limits` are for what comes."""
        channel = FrameChannel(
            peer,
            reader,
            writer,
            self._settings.stream,
            limits=limits,
            on_close=self.forget,
            on_unfinished=self.hold,
        )
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
        self._entered.discard(channel)
        self._unfinished.hold(channel, 0)

    @property
    def unfinished(self) -> int:
        """Bytes of frames that are not whole yet, of all peers."""
        return self._unfinished.held

    def hold(self, channel: OwnedChannel, size: int) -> None:
        """The channel has `size` bytes of a frame that is not whole. Breaks off whoever holds too much for too long."""
        if channel.closed and size:
            # Broken off while bytes of it were on their way to who reads it: they would be counted for ever, and
            # others would have to give way to them.
            return
        victim = self._unfinished.hold(channel, size)
        if victim is not None:
            log.warning("%s holds too many bytes of frames that do not end: broken off", victim.peer)
            victim.abort("too many bytes of unfinished frames")

    def has_room(self, peer: PeerId) -> bool:
        """Whether `peer` may open another channel; where all places are taken, one is made free if that is fair."""
        settings = self._settings
        if self.closed or self._inbound[peer] >= settings.inbound_per_peer:
            return False
        if not self._openings.of(peer).take(time.monotonic()):
            return False
        return len(self._entered) < settings.inbound or self._make_room(peer)

    def is_full(self, peer: PeerId) -> bool:
        """True while every place that `peer` may take is taken."""
        settings = self._settings
        return self.closed or self._inbound[peer] >= settings.inbound_per_peer or len(self._entered) >= settings.inbound

    def _make_room(self, peer: PeerId) -> bool:
        """End the quietest channel of the peer that has most; False where that has hardly more than `peer`."""
        most, count = max(self._inbound.items(), key=lambda item: item[1])
        if count <= self._inbound[peer] + 1:
            return False
        quietest = min((each for each in self._entered if each.peer == most), key=lambda each: each.heard, default=None)
        if quietest is None:
            return False
        log.info("%s has %d channels: the quietest makes room for %s", most, count, peer)
        quietest.abort("others need the place")
        return True

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
        limits = self._settings.inbound_limits.get(protocol)
        self.handle(self.opened(peer, reader, writer, limits=limits), protocol, handler)

    def handle(self, channel: OwnedChannel, protocol: str, handler: Handler) -> None:
        """Start `handler` on an inbound channel that was adopted."""
        peer = channel.peer
        self._inbound[peer] += 1
        self._entered.add(channel)
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
