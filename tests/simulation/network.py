"""A network in virtual time that can be slow, cut, and broken: the `Transport` port between simulated machines.

Frames arrive whole and in order, as every real adapter promises, until their channel breaks; then those under way are
lost, or still arrive at a peer that has not noticed. Only a hostile line doubles, swaps or swallows frames inside a
channel, which no honest transport does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Self

from mesh.errors import PeerTimeout, PeerUnreachable
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.port import Handler, PeerId
from mesh.wire.frame import Frame
from tests.simulation.loop import Machine, VirtualLoop

WINDOW = 64
"""Frames that one direction of a channel holds before its sender waits."""
NOTICE_SECONDS = (3.0, 6.0)
LATE_NOTICE_SECONDS = (6.0, 39.0)
"""How long it takes until a connection over which nothing goes is given up: by keepalives, or by the Go daemon."""

Sent = Callable[[PeerId, PeerId, str, Frame], None]


@dataclass(frozen=True, slots=True)
class Line:
    """How frames travel from one peer to another (seconds).

    `hostile` has the chances that a frame is doubled, takes the place of the one before it, or is lost.
    """

    delay: float
    jitter: float
    hostile: tuple[float, float, float] = (0.0, 0.0, 0.0)


class _End:
    """What a channel's end finds instead of a frame."""


GOODBYE, BROKEN = _End(), _End()


class SimNetwork:
    """All peers of a simulation and the lines between them."""

    def __init__(self, loop: VirtualLoop, random: Random, *, note: Callable[..., None], sent: Sent) -> None:
        self.loop = loop
        self.random = random
        self.note = note
        self.sent = sent
        self.members: dict[PeerId, SimTransport] = {}
        self.lines: dict[tuple[PeerId, PeerId], Line] = {}
        self.extra: dict[PeerId, float] = {}
        """Seconds that everything to and from a peer takes longer now."""
        self.cut: dict[tuple[PeerId, PeerId], int] = {}
        """Directions in which nothing arrives, and how many faults cut each."""
        self.dark: set[PeerId] = set()
        """Machines without power: nothing of them answers, not even that nobody is there."""
        self.channels: dict[SimChannel, None] = {}
        """The dialler's end of every open channel."""
        self.hostile_counts = {"frame_doubled": 0, "frame_swapped": 0, "frame_lost": 0}
        self.numbers = itertools.count()

    def line(self, one: PeerId, other: PeerId) -> Line:
        """The line between two peers, made when first asked for."""
        found = self.lines.get((one, other))
        if found is None:
            delay = self.random.choice((0.0005, 0.005, 0.02, 0.06))
            found = Line(delay, delay * self.random.choice((0.1, 1.0)))
            self.lines[one, other] = self.lines[other, one] = found
        return found

    def seconds(self, one: PeerId, other: PeerId) -> float:
        line = self.line(one, other)
        return line.delay + line.jitter * self.random.random() + self.extra.get(one, 0.0) + self.extra.get(other, 0.0)

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        return (one, other) in self.cut or one in self.dark or other in self.dark

    def sever(self, pairs: Iterable[tuple[PeerId, PeerId]], seconds: float) -> None:
        """Nothing arrives in these directions for a while; a connection that waits too long breaks."""
        severed = list(pairs)
        for pair in severed:
            self.cut[pair] = self.cut.get(pair, 0) + 1
        self.loop.at(self.loop.time() + seconds, self._mend, severed)
        for channel in list(self.channels):
            if (channel.us, channel.peer) in severed or (channel.peer, channel.us) in severed:
                for end in (channel, channel.other):
                    self.loop.at(self.loop.time() + self._notice(), self._give_up, end)

    def _notice(self) -> float:
        return self.random.uniform(*(NOTICE_SECONDS if self.random.random() < 0.7 else LATE_NOTICE_SECONDS))

    def _mend(self, pairs: list[tuple[PeerId, PeerId]]) -> None:
        for pair in pairs:
            self.cut[pair] -= 1
            if not self.cut[pair]:
                del self.cut[pair]
        for channel in list(self.channels):
            channel.incoming.resume()
            channel.other.incoming.resume()

    def _give_up(self, end: SimChannel) -> None:
        if self.is_cut(end.us, end.peer) or self.is_cut(end.peer, end.us):
            end.fall("nothing went through")
            self.loop.at(self.loop.time() + self._notice(), end.other.fall, "the other end has given up")

    def break_channel(self, channel: SimChannel, *, lag: float, first: int, lost: bool) -> None:
        """One end notices at once and the other `lag` seconds later; what is under way to that one may still arrive."""
        ends = (channel, channel.other)
        early, late = ends[first], ends[1 - first]
        early.fall("the connection broke")
        if lost:
            late.incoming.clear()
        self.loop.at(self.loop.time() + lag, late.fall, "the connection broke")

    def behave(self) -> None:
        """No line is hostile any more."""
        self.lines = {pair: replace(line, hostile=(0.0, 0.0, 0.0)) for pair, line in self.lines.items()}

    def join(self, transport: SimTransport) -> None:
        self.members[transport.peer_id] = transport

    def leave(self, transport: SimTransport, *, lag: float = 0.0) -> None:
        """A peer's process is gone, and its channels with it; the others notice `lag` seconds later."""
        if self.members.get(transport.peer_id) is transport:
            del self.members[transport.peer_id]
        for channel in list(self.channels):
            for end in (channel, channel.other):
                if end.transport is transport:
                    end.fall("our process is gone")
                    other = end.other
                    self.loop.at(self.loop.time() + lag + self.seconds(end.us, end.peer), other.fall, "it is gone")


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
        copy = Frame(frame.header, bytes(frame.payload))
        self.network.sent(self.us, self._peer, self.protocol, copy)
        self.other.incoming.put(copy)
        await self.other.incoming.room()
        self._check()

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
        while len(self._under_way) + len(self._arrived) >= WINDOW and not self._fallen:
            if self._end.closed or self._end.other.closed:
                return
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            await waiting


class SimTransport:
    """A `Transport` of one machine."""

    def __init__(self, peer_id: PeerId, network: SimNetwork, machine: Machine) -> None:
        self.network = network
        self.machine = machine
        self.channels = Channels(TransportSettings())
        self._peer_id = peer_id
        self._handlers: dict[str, Handler] = {}

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    async def __aenter__(self) -> Self:
        self.network.join(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.machine.alive:
            self.network.leave(self)
        self._handlers.clear()
        await self.channels.aclose()

    async def serve(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> SimChannel:
        network, us = self.network, self._peer_id
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(network.seconds(us, peer) + network.seconds(peer, us))
                while network.is_cut(us, peer) or network.is_cut(peer, us) or self._is_frozen(peer):  # noqa: ASYNC110
                    await asyncio.sleep(0.3)
                await asyncio.sleep(network.seconds(us, peer))
        except TimeoutError as error:
            raise PeerTimeout(f"{peer} does not answer", peer=peer) from error
        remote = network.members.get(peer)
        if self.channels.closed or not self.machine.alive:
            raise PeerUnreachable("the transport is closed", peer=peer)
        handler = remote._handlers.get(protocol) if remote is not None else None
        if remote is None or handler is None or not remote.channels.has_room(us):
            raise PeerUnreachable(f"the peer does not serve {protocol}", peer=peer)
        ours, theirs = SimChannel(self, peer, protocol), SimChannel(remote, us, protocol)
        ours.other, theirs.other = theirs, ours
        network.channels[ours] = None
        self.channels.adopt(ours)
        remote.channels.adopt(theirs)
        remote.machine.call(remote.channels.handle, theirs, protocol, handler)
        return ours

    def _is_frozen(self, peer: PeerId) -> bool:
        remote = self.network.members.get(peer)
        return remote is not None and remote.machine.is_asleep
