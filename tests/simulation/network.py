"""A network in virtual time that can be slow, cut, and broken: the `Transport` port between simulated machines.

Frames arrive whole and in order, as every real adapter promises, until their channel breaks; then those under way are
lost, or still arrive at a peer that has not noticed. Only a hostile line doubles, swaps or swallows frames inside a
channel, which no honest transport does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Self

from mesh.errors import PeerTimeout, PeerUnreachable
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.port import Handler, PeerId
from mesh.wire.frame import Frame
from tests.simulation.channel import SimChannel
from tests.simulation.loop import Machine, VirtualLoop

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
