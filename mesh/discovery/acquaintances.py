"""Whom to ask again whether they are there: peers of the DHT that its routing table has forgotten (pure).

Kademlia drops who does not answer, on both sides. After a partition nobody asks across it any more, and without this
the DHT stays in two pieces; a node that was alone is left with an empty table for good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

MAX_KNOWN: Final = 256
FORGET_SECONDS: Final = 1800.0
"""So long after it was there last a peer is forgotten, unless the node was started with its address."""


@dataclass(slots=True)
class _Known:
    seen: float
    asked: float


class Acquaintances:
    """Peers by id. `first` are those that the node was started with: never forgotten."""

    def __init__(self, first: Iterable[str], now: float) -> None:
        self._first = frozenset(first)
        self._known = {peer: _Known(now, 0.0) for peer in self._first}

    def __len__(self) -> int:
        return len(self._known)

    def saw(self, peers: Iterable[str], now: float) -> None:
        """These are in the routing table now."""
        for peer in peers:
            known = self._known.setdefault(peer, _Known(now, 0.0))
            known.seen = now
        strangers = [peer for peer in self._known if peer not in self._first]
        for peer in strangers:
            if now - self._known[peer].seen > FORGET_SECONDS:
                del self._known[peer]
        strangers = sorted((p for p in strangers if p in self._known), key=lambda peer: self._known[peer].seen)
        for peer in strangers[: max(0, len(self._known) - MAX_KNOWN)]:
            del self._known[peer]

    def to_ask(self, present: Collection[str], most: int, now: float) -> list[str]:
        """At most `most` of those that are missing, whoever was not asked for longest first; they count as asked."""
        missing = [peer for peer in self._known if peer not in present]
        missing.sort(key=lambda peer: self._known[peer].asked)
        for peer in missing[:most]:
            self._known[peer].asked = now
        return missing[:most]
