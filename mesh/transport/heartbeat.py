"""A transport that notices when a peer behind a channel has gone silent, by asking it every few seconds beside it.

Through the Go daemon a line that swallows everything looks like a peer with nothing to say for about 40 s. A question
on the channel itself would wait behind what the peer has not taken yet, and back-pressure would look like silence; so
the question goes over a channel of its own, which the daemon carries over the same connection.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from mesh.errors import PeerError, PeerTimeout, ProtocolViolation
from mesh.transport.channels import OwnedChannel
from mesh.transport.port import Channel, Handler, PeerId, Transport
from mesh.wire.messages import Ping, Pong, decode, encode

log = logging.getLogger(__name__)

HEARTBEAT_PROTOCOL: Final = "/mesh/heartbeat/1"


@dataclass(frozen=True, slots=True)
class HeartbeatSettings:
    """How often a peer is asked, and for how many seconds it may be silent.

    At 300 ms there and back TCP sends a lost packet again after some 0.6, 1.8 and 4.2 s: four losses in a row look
    like silence.
    """

    interval: float = 2.0
    tick: float = 1.0
    silent_ticks: int = 6
    """Ticks without an answer. Should this process itself stand still for a while, that counts as one."""


async def answer_heartbeats(channel: Channel) -> None:
    """The handler of `HEARTBEAT_PROTOCOL`. Raises `ProtocolViolation` on anything but questions."""
    while (frame := await channel.receive()) is not None:
        match decode(frame):
            case Ping(nonce=nonce):
                await channel.send(encode(Pong(nonce)))
            case other:
                raise ProtocolViolation(f"a {other.kind!r} message is no heartbeat", peer=channel.peer)


class HeartbeatTransport:
    """A `Transport` over another, which it does not own; channels that it opened for `protocols` are watched.

    One whose peer falls silent breaks (`PeerUnreachable`). Of a peer that knows no heartbeats nothing is concluded.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        protocols: Container[str],
        on_silent: Callable[[PeerId], Awaitable[None]] | None = None,
        settings: HeartbeatSettings | None = None,
    ) -> None:
        """`on_silent` hears of a peer whose channels have been broken."""
        self._inner = inner
        self._protocols = protocols
        self._on_silent = on_silent
        self._settings = settings or HeartbeatSettings()
        self._watched: dict[PeerId, list[OwnedChannel]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def peer_id(self) -> PeerId:
        return self._inner.peer_id

    async def __aenter__(self) -> Self:
        await self._inner.serve(HEARTBEAT_PROTOCOL, answer_heartbeats)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watched.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def serve(self, protocol: str, handler: Handler) -> None:
        await self._inner.serve(protocol, handler)

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        channel = await self._inner.open(peer, protocol, timeout=timeout)
        if protocol in self._protocols and peer != self.peer_id:
            owned: OwnedChannel = channel  # type: ignore[assignment]
            watched = self._watched.get(peer)
            if watched is not None:
                watched.append(owned)
            else:
                self._watched[peer] = [owned]
                self._tasks.add(task := asyncio.create_task(self._watch(peer), name=f"heartbeats of {peer}"))
                task.add_done_callback(self._tasks.discard)
        return channel

    def _in_use(self, peer: PeerId) -> bool:
        """Forget the channels that have ended; whether there are others."""
        remaining = [channel for channel in self._watched.get(peer, ()) if not channel.closed]
        if peer in self._watched:
            self._watched[peer] = remaining
        return bool(remaining)

    async def _watch(self, peer: PeerId) -> None:
        try:
            while self._in_use(peer):
                await self._listen(peer)
        except PeerTimeout as error:
            for channel in self._watched.pop(peer, ()):
                channel.abort(str(error))
            if self._on_silent is not None:
                await self._on_silent(peer)
        except PeerError as error:  # it may be gone, which its channels tell themselves, or know no heartbeats
            log.debug("%s answers no heartbeats: %s", peer, error)
            self._watched.pop(peer, None)
        else:
            self._watched.pop(peer, None)

    async def _listen(self, peer: PeerId) -> None:
        """Ask until the channels are closed. Raises `PeerTimeout` once the peer is silent."""
        channel = await self._inner.open(peer, HEARTBEAT_PROTOCOL)
        try:
            for nonce in itertools.count():
                if not self._in_use(peer):
                    return
                await self._exchange(channel, nonce)
                await asyncio.sleep(self._settings.interval)
        finally:
            await channel.aclose()

    async def _exchange(self, channel: Channel, nonce: int) -> None:
        settings = self._settings
        asking = asyncio.create_task(_ask(channel, nonce))
        try:
            for _ in range(settings.silent_ticks):
                done, _ = await asyncio.wait({asking}, timeout=settings.tick)
                if done:
                    return asking.result()
        finally:
            asking.cancel()
        seconds = settings.tick * settings.silent_ticks
        raise PeerTimeout(f"the peer has been silent for {seconds:g} s", peer=channel.peer)


async def _ask(channel: Channel, nonce: int) -> None:
    await channel.send(encode(Ping(nonce)))
    frame = await channel.receive()
    if frame is None or decode(frame) != Pong(nonce):
        raise ProtocolViolation("a heartbeat got another answer", peer=channel.peer)
