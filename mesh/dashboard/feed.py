"""Numbered changes for all viewers together: looked for only while somebody looks, kept in one bounded ring.

A viewer is a place in the ring, not a queue of its own: however many there are and however slowly they read, the memory
is that of the ring. One that falls behind its start gets a snapshot instead. There is no task in the background: of the
viewers that wait, one looks for all.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from mesh.dashboard.delta import Changes, delta, encode, plain
from mesh.dashboard.snapshot import Snapshot

KEPT_CHANGES: Final = 60
"""How many changes a viewer may be behind …"""
KEPT_BYTES: Final = 4 << 20
"""… and how large they may be together."""
HEARTBEAT_SECONDS: Final = 15.0
_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})\Z")
_HEARTBEAT: Final = b": nothing new\n\n"


@dataclass(slots=True)
class Viewer:
    """One who looks. `private`: it may see this node's requests."""

    private: bool
    seen: int | None = None
    """The number of the last change that it has; None: it has nothing."""


@dataclass(frozen=True, slots=True)
class _Change:
    number: int
    public: bytes
    private: bytes

    def bytes_for(self, viewer: Viewer) -> bytes:
        return self.private if viewer.private else self.public


class Feed:
    """The events of `look`, which is called every `interval` seconds at most, and by one viewer at a time."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Snapshot]],
        *,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._interval = interval
        self._clock = clock
        self._name = secrets.token_hex(4)
        """So that the numbers of an earlier process mean nothing to us."""
        self._number = 0
        self._state: Snapshot | None = None
        self._looked_at = -float("inf")
        self._changes: deque[_Change] = deque()
        self._kept_bytes = 0
        self._turn = asyncio.Lock()
        self._stopped = asyncio.Event()
        self.looks = 0
        """How often the swarm was looked at."""

    def stop(self) -> None:
        """Every viewer's stream ends."""
        self._stopped.set()

    def viewer(self, last_event_id: str, *, private: bool) -> Viewer:
        """One that has seen everything up to an event of ours, or nothing."""
        match = _ID.match(last_event_id)
        if match is None or match[1] != self._name:
            return Viewer(private)
        return Viewer(private, int(match[2]))

    async def next(self, viewer: Viewer) -> bytes | None:
        """What is new for this viewer, waited for; a comment where nothing has changed for long; None at the end."""
        waiting = asyncio.ensure_future(self._next(viewer))
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped.is_set() else waiting.result()
        finally:
            for task in (waiting, stopped):
                task.cancel()
            await asyncio.gather(waiting, stopped, return_exceptions=True)

    async def _next(self, viewer: Viewer) -> bytes:
        until = self._clock() + HEARTBEAT_SECONDS
        while True:
            await self._advance(viewer)
            if not self._can_follow(viewer):
                return self._snapshot_for(viewer)
            news = [change for change in self._changes if change.number > (viewer.seen or 0)]
            if news:
                viewer.seen = news[-1].number
                return b"".join(change.bytes_for(viewer) for change in news)
            if self._clock() >= until:
                return _HEARTBEAT

    def _can_follow(self, viewer: Viewer) -> bool:
        if viewer.seen is None or viewer.seen > self._number:
            return False
        oldest = self._changes[0].number if self._changes else self._number + 1
        return viewer.seen >= oldest - 1

    async def _advance(self, viewer: Viewer) -> None:
        """Look again, unless there is something that this viewer has not seen. Of all that wait, one does it."""
        if viewer.seen is None and self._age < 2 * self._interval:
            return  # a newcomer does not wait for the next look
        async with self._turn:
            if self._state is not None and viewer.seen != self._number and (viewer.seen or self._age < self._interval):
                return
            if viewer.seen is not None:
                await asyncio.sleep(max(0.0, self._looked_at + self._interval - self._clock()))
            self._looked_at = self._clock()
            self.looks += 1
            self._take(await self._look())

    def _take(self, state: Snapshot) -> None:
        before, self._state = self._state, state
        if before is None:
            return
        changes = delta(before, state)
        if not changes:
            return
        self._number += 1
        public = encode_event(self._id, "delta", _public(changes))
        private = encode_event(self._id, "delta", changes)
        self._changes.append(_Change(self._number, public, private))
        self._kept_bytes += len(public) + len(private)
        while len(self._changes) > KEPT_CHANGES or self._kept_bytes > KEPT_BYTES:
            old = self._changes.popleft()
            self._kept_bytes -= len(old.public) + len(old.private)

    def _snapshot_for(self, viewer: Viewer) -> bytes:
        assert self._state is not None
        viewer.seen = self._number
        state = self._state if viewer.private else replace(self._state, requests={})
        rows = plain(replace(state, about=replace(state.about, requests=viewer.private)))
        return encode_event(self._id, "snapshot", rows)

    @property
    def _age(self) -> float:
        """Seconds since the state that there is was looked for."""
        return self._clock() - self._looked_at if self._state is not None else float("inf")

    @property
    def _id(self) -> str:
        return f"{self._name}-{self._number}"


def encode_event(identifier: str, kind: str, value: object) -> bytes:
    """One server-sent event; JSON has no line breaks."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (identifier.encode(), kind.encode(), encode(value))


def _public(changes: dict[str, Changes]) -> dict[str, Changes]:
    """A delta without this node's requests."""
    return {name: change for name, change in changes.items() if name != "requests"}
