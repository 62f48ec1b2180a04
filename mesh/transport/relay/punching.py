"""When to try again to get past a relay (pure; times in seconds).

libp2p tries to punch a hole when a relayed connection is made, and only then. Two nodes that have just started are
often not ready: each must first have been told its public address by four others. So a relayed connection that carries
nothing is closed now and then, and the one made in its place gets another chance.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

PeerId = str

FIRST_TRY: Final = 2.0
SECOND_TRY: Final = 15.0
LAST_TRY: Final = 600.0
"""Seconds that a connection stays relayed before the first try, after it, and at most: each wait doubles."""


class Punching:
    """The peers that we reach through relays only."""

    def __init__(self) -> None:
        self._next: dict[PeerId, tuple[float, float]] = {}

    def due(self, relayed: Collection[PeerId], busy: Collection[PeerId], now: float) -> list[PeerId]:
        """Those to connect to anew: nothing is open with them."""
        for peer in [peer for peer in self._next if peer not in relayed]:
            del self._next[peer]
        found = []
        for peer in relayed:
            at, wait = self._next.setdefault(peer, (now + FIRST_TRY, SECOND_TRY))
            if peer in busy or now < at:
                continue
            self._next[peer] = now + wait, min(2 * wait, LAST_TRY)
            found.append(peer)
        return found
