"""One channel of the simulated network: its two ends, and the frames on their way between them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from mesh.errors import PeerUnreachable
from mesh.transport.port import PeerId
from mesh.wire.frame import Frame

if TYPE_CHECKING:
    from tests.simulation.network import SimNetwork, SimTransport

WINDOW = 64
"""Frames that one direction of a channel holds before its sender waits."""


class _End:
    """What a channel's end finds instead of a frame."""


GOODBYE, BROKEN = _End(), _End()


class SimChannel:
    """One end of a channel."""

    def __init__(self, transport: SimTransport, peer: PeerId, protocol: str) -> None:
        self.transport = transport
        self.network = transport.network
        self.us = transport.peer_id
        self.protocol = protocol
        self._peer = peer
        self._number = next(self.network.numbers)
        self.other: SimChannel
        self.incoming = _Pipe(self)
        self.closed = False
        self._ended = False
        self._reason: str | None = None

    def __hash__(self) -> int:
        return self._number

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, frame: Frame) -> None:
        self._check()
        self._put(frame)
        await self.other.incoming.room()
        self._check()

    def try_send(self, frame: Frame) -> bool:
        self._check()
        if self.other.incoming.full:
            return False
        self._put(frame)
        return True

    def _put(self, frame: Frame) -> None:
        copy = Frame(frame.header, bytes(frame.payload))
        self.network.sent(self.us, self._peer, self.protocol, copy)
        self.other.incoming.put(copy)

    async def receive(self) -> Frame | None:
        if self._ended:
            return None
        self._check()
        item = await self.incoming.get()
        if isinstance(item, Frame):
            return item
        if item is GOODBYE:
            self._ended = True
            return None
        self.fall("the peer is gone: the stream ended without a goodbye")
        raise self._unreachable()

    async def aclose(self, *, linger: float = 0.0) -> None:
        if self.closed:
            return
        self._close("the channel is closed")
        self.other.incoming.put(GOODBYE)
        if linger > 0 and not self._ended and self.transport.machine.alive:
            try:
                async with asyncio.timeout(linger):
                    while isinstance(await self.incoming.get(), Frame):
                        pass
            except TimeoutError:
                pass

    def abort(self, reason: str = "the channel was aborted") -> None:
        if not self.closed:
            self._close(reason)
            self.other.incoming.put(BROKEN)

    def fall(self, reason: str) -> None:
        """The connection breaks under this end."""
        if not self.closed:
            self._close(reason)
        self.incoming.fall()

    def _close(self, reason: str) -> None:
        self.closed = True
        self._reason = reason
        self.transport.channels.forget(self)
        self.incoming.wake()
        self.other.incoming.wake()
        if self.closed and self.other.closed:
            self.network.channels.pop(self, None)
            self.network.channels.pop(self.other, None)

    def _check(self) -> None:
        if self.closed:
            raise self._unreachable()

    def _unreachable(self) -> PeerUnreachable:
        return PeerUnreachable(self._reason or "the channel is closed", peer=self._peer)


class _Pipe:
    """What is on its way to one end of a channel, and what has arrived there."""

    def __init__(self, end: SimChannel) -> None:
        self._end = end
        self._loop = end.network.loop
        self._under_way: deque[Frame | _End] = deque()
        self._arrived: deque[Frame | _End] = deque()
        self._last = 0.0
        self._halted = False
        self._fallen = False
        self._changed: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        return len(self._under_way) + len(self._arrived) >= WINDOW

    def put(self, item: Frame | _End) -> None:
        end, network = self._end, self._end.network
        if self._fallen or not end.transport.machine.alive:
            return
        if isinstance(item, Frame):
            for copy in self._mistreat(item):
                self._send(copy, network)
        else:
            self._send(item, network)

    def _mistreat(self, frame: Frame) -> list[Frame]:
        network = self._end.network
        double, swap, lose = network.line(self._end.peer, self._end.us).hostile
        if not double + swap + lose:
            return [frame]
        number = network.random.random()
        if number < double:
            network.hostile_counts["frame_doubled"] += 1
            return [frame, frame]
        if number < double + lose:
            network.hostile_counts["frame_lost"] += 1
            return []
        if number < double + lose + swap and self._under_way and isinstance(self._under_way[-1], Frame):
            network.hostile_counts["frame_swapped"] += 1
            before = self._under_way.pop()
            self._under_way.append(frame)
            assert isinstance(before, Frame)
            return [before]  # its timer is there already, and this one makes a second
        return [frame]

    def _send(self, item: Frame | _End, network: SimNetwork) -> None:
        self._last = max(self._last, self._loop.time() + network.seconds(self._end.peer, self._end.us))
        self._under_way.append(item)
        self._loop.at(self._last, self._arrive)

    def _arrive(self) -> None:
        if not self._under_way:
            return
        end = self._end
        if end.network.is_cut(end.peer, end.us):
            self._halted = True
            return
        item = self._under_way.popleft()
        self._arrived.append(item)
        if isinstance(item, Frame):
            end.network.note("frame", end.peer, end.us, end.protocol, item)
        self.wake()

    def resume(self) -> None:
        """The line carries again what was held up."""
        if self._halted:
            self._halted = False
            while self._under_way and not self._halted:
                self._arrive()

    def clear(self) -> None:
        self._under_way.clear()

    def fall(self) -> None:
        """Nothing more arrives; what has arrived may be lost with the connection."""
        self._fallen = True
        self._under_way.clear()
        if self._end.network.random.random() < 0.5:
            self._arrived.clear()
        self._arrived.append(BROKEN)
        self.wake()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def get(self) -> Frame | _End:
        while not self._arrived:
            if self._end.closed and self._fallen:
                return BROKEN
            self._changed = self._loop.create_future()
            try:
                await self._changed
            finally:
                self._changed = None
            if self._end.closed and not self._arrived:
                return BROKEN
        item = self._arrived.popleft()
        while self._waiting and len(self._under_way) + len(self._arrived) < WINDOW:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                break
        return item

    async def room(self) -> None:
        """Return once there is room for another frame, or nobody will read any more."""
        while self.full and not self._fallen:
            if self._end.closed or self._end.other.closed:
                return
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            await waiting
