"""The transport that takes the better path to each peer: direct TLS where it can be dialled, else the control path.

A channel stays on its path until it ends; a change of path only concerns channels that are opened later, so no session
is dropped by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Self

from mesh.errors import PeerError
from mesh.transport.channels import OwnedChannel
from mesh.transport.direct.channel import DirectChannel
from mesh.transport.direct.dialler import TurnedAway
from mesh.transport.direct.transport import DirectTransport
from mesh.transport.paths import Paths
from mesh.transport.port import Channel, Handler, PeerId, Transport

log = logging.getLogger(__name__)

Path = Literal["direct", "control"]

HEAD_START = 0.5
"""Seconds that a channel waits for the direct path, introduction included, before it takes the other one."""
DIRECT_SECONDS = 5.0
"""Seconds after which the direct path counts as closed; one that opens after the head start is for later channels."""


@dataclass(frozen=True, slots=True)
class PairReport:
    """How this node and a peer are connected right now. Round trips in seconds, where they were measured."""

    peer: PeerId
    path: Path
    """That of the channel opened last."""
    channels: int
    direct_round_trip: float | None
    control_round_trip: float | None
    problem: str | None
    """Why the direct path is not taken."""


class ChoosingTransport:
    """A `Transport` over two others, which it does not own, and which have the same peer id."""

    def __init__(
        self,
        direct: DirectTransport,
        control: Transport,
        *,
        protocols: Container[str] | None = None,
        head_start: float = HEAD_START,
        direct_seconds: float = DIRECT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Only channels of `protocols` (default: all) go the direct way."""
        self._direct = direct
        self._control = control
        self._protocols = protocols
        self._head_start = head_start
        self._direct_seconds = direct_seconds
        self._attempts: set[asyncio.Task[DirectChannel]] = set()
        self._clock = clock
        self._paths = Paths()
        self._outbound: dict[PeerId, list[tuple[Path, Channel]]] = {}
        self._inbound: Counter[tuple[PeerId, Path]] = Counter()
        direct.on_round_trip = self._paths.measured

    @property
    def peer_id(self) -> PeerId:
        return self._control.peer_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbound.clear()
        for attempt in tuple(self._attempts):
            attempt.cancel()
            attempt.add_done_callback(_abort_unused)
        if self._attempts:
            await asyncio.wait(self._attempts)

    async def serve(self, protocol: str, handler: Handler) -> None:
        await self._control.serve(protocol, self._counting("control", handler))
        if self._may_be_direct(protocol):
            await self._direct.serve(protocol, self._counting("direct", handler))

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        eligible = self._may_be_direct(protocol) and peer != self.peer_id
        if not eligible or not self._paths.wants_direct(peer, self._clock()):
            return self._opened("control", await self._control.open(peer, protocol, timeout=timeout))
        attempt = asyncio.create_task(
            self._direct.prepare(peer, protocol, timeout=min(self._direct_seconds, timeout)), name=f"dialling {peer}"
        )
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        try:
            channel = await self._first(attempt, peer, protocol, timeout)
        except BaseException:
            # A peer that is gone altogether deserves a fresh try when it is back: nothing is learned of the path.
            attempt.cancel()
            attempt.add_done_callback(_abort_unused)
            raise
        if attempt.done():
            self._learn(peer, attempt)
        else:
            attempt.add_done_callback(partial(self._learn, peer))
        return channel

    async def _first(
        self, attempt: asyncio.Task[DirectChannel], peer: PeerId, protocol: str, timeout: float
    ) -> Channel:
        """The direct channel if it is ready within its head start, else one over the control path."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await asyncio.wait({attempt}, timeout=min(self._head_start, timeout / 2))
        if attempt.done():
            try:
                return self._opened("direct", self._direct.start(attempt.result(), peer))
            except TurnedAway:
                raise  # it is there and does not want us: it would not on the other path either
            except PeerError as error:
                log.debug("%s is not reached directly: %s", peer, error)
        left = max(deadline - loop.time(), 0.001)
        return self._opened("control", await self._control.open(peer, protocol, timeout=left))

    def _learn(self, peer: PeerId, attempt: asyncio.Task[DirectChannel]) -> None:
        """What an attempt, awaited or not, tells about the path."""
        if attempt.cancelled():
            return
        match attempt.exception():
            case None:
                _abort_unused(attempt)
                self._paths.worked(peer)
            case PeerError() as error:
                self._paths.failed(peer, str(error), self._clock())
            case error:
                log.error("bug in the direct transport", exc_info=error)

    def pairs(self) -> list[PairReport]:
        """The peers that we have channels with, and on which path."""
        found: dict[PeerId, tuple[Path, int]] = {}
        for (peer, path), count in self._inbound.items():
            already = found[peer][1] if peer in found else 0
            found[peer] = "direct" if path == "direct" else found.get(peer, (path, 0))[0], count + already
        for peer in tuple(self._outbound):
            if channels := self._prune(peer):
                already = found[peer][1] if peer in found else 0
                found[peer] = channels[-1][0], len(channels) + already
        return [self._report(peer, path, count) for peer, (path, count) in sorted(found.items())]

    def _may_be_direct(self, protocol: str) -> bool:
        return self._protocols is None or protocol in self._protocols

    def _report(self, peer: PeerId, path: Path, channels: int) -> PairReport:
        known = self._paths.known(peer)
        return PairReport(
            peer,
            path,
            channels,
            min(known.direct) if known and known.direct else None,
            min(known.control) if known and known.control else None,
            known.problem if known else None,
        )

    def _opened(self, path: Path, channel: Channel) -> Channel:
        self._prune(channel.peer)
        self._outbound.setdefault(channel.peer, []).append((path, channel))
        return channel

    def _prune(self, peer: PeerId) -> list[tuple[Path, Channel]]:
        """Forget the channels to `peer` that have ended; those that remain, oldest first."""
        remaining = [entry for entry in self._outbound.get(peer, ()) if not _closed(entry[1])]
        if remaining:
            self._outbound[peer] = remaining
        else:
            self._outbound.pop(peer, None)
        return remaining

    def _counting(self, path: Path, handler: Handler) -> Handler:
        async def counted(channel: Channel) -> None:
            key = channel.peer, path
            self._inbound[key] += 1
            try:
                await handler(channel)
            finally:
                self._inbound[key] -= 1
                if not self._inbound[key]:
                    del self._inbound[key]

        return counted


def _abort_unused(attempt: asyncio.Task[DirectChannel]) -> None:
    """A connection that was prepared and not started does nothing at the other end."""
    if not attempt.cancelled() and attempt.exception() is None and not attempt.result().peer:
        attempt.result().abort("the other path was faster")


def _closed(channel: Channel) -> bool:
    owned: OwnedChannel = channel  # type: ignore[assignment]
    return owned.closed
