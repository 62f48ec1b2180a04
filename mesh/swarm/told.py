"""What providers say of the round trips between them, as far as a route may believe it (pure).

A provider that lies must not draw sessions to itself, nor away from others. So of what two say of each other the larger
counts: nobody makes a way look shorter than the honest end of it says, and only ways that end at the liar get longer.
What just one end says counts no less than a way of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

MAX_TELLERS: Final = 64
MAX_TOLD: Final = 64
"""Pairs that are kept of one teller."""
MAX_PEERS: Final = 64
MAX_PAIRS: Final = 2048
"""A route looks at peers with a known way one by one: at so many, and at so many ways between them."""
BOTH: Final = 1e6
KEPT_SECONDS: Final = 300.0
TELLING: Final = 0.5
"""A way tells something when it is by this part longer or shorter than one of which nothing is known."""


class ToldTimes:
    """The newest that each provider said, for `KEPT_SECONDS`."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, dict[str, float]]] = {}
        """By teller: when, and round trips by peer; longest ago first."""

    def hear(self, teller: str, round_trips: Mapping[str, float], now: float) -> None:
        """`teller` measured these round trips (seconds), and none besides."""
        self._told.pop(teller, None)
        while len(self._told) >= MAX_TELLERS:
            del self._told[next(iter(self._told))]
        kept = [(peer, max(0.0, seconds)) for peer, seconds in round_trips.items() if peer != teller]
        self._told[teller] = now, dict(kept[:MAX_TOLD])

    def between(self, peers: Collection[str], default: float, now: float) -> dict[tuple[str, str], float]:
        """Seconds for a hand-over, half a round trip, both ways, between any of `peers`; `default` is the usual.

        Only what differs clearly from `default` is in it; of much of that what both ends say and what differs most.
        """
        fresh = {peer: told for peer, (at, told) in self._told.items() if now - at < KEPT_SECONDS and peer in peers}
        found: dict[tuple[str, str], tuple[float, float]] = {}
        """By pair: how it ranks (what both say before what one says, then by how unusual it is), and its seconds."""
        for teller, told in fresh.items():
            for other, seconds in told.items():
                if (other, teller) in found or other not in peers:
                    continue
                echo = fresh[other].get(teller) if other in fresh else None
                hand_over = max(seconds / 2, default) if echo is None else max(seconds, echo) / 2
                unusual = abs(hand_over - default)
                if unusual > TELLING * default:
                    found[teller, other] = (-unusual if echo is None else -unusual - BOTH), hand_over
        chosen: dict[tuple[str, str], float] = {}
        members: set[str] = set()
        for pair in sorted(found, key=found.__getitem__):
            one, two = pair
            if len(members) + (one not in members) + (two not in members) > MAX_PEERS:
                continue
            members |= {one, two}
            chosen[one, two] = chosen[two, one] = found[pair][1]
            if len(chosen) >= MAX_PAIRS:
                break
        return chosen
