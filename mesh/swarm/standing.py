"""What a client remembers of the peers it used: who failed, who was full, what hand-overs took (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

FIRST_PENALTY = 1e6
"""How many times slower a peer counts with that has just failed: it is chosen where there is no other."""
REPEAT = 100.0
WORST_PENALTY = 1e12
FORGIVEN = 0.05
MAX_REMEMBERED = 4096
MEMORY_SECONDS = 600.0
"""A hand-over that was slow once gets another chance after this time."""
WEIGHT = 0.3
"""Of the newest measurement, in the mean."""


@dataclass(slots=True)
class Penalties:
    """Peers that failed count as slower than they are, by a factor that decays with time (seconds).

    A peer that fails again before it is forgiven is `REPEAT` times as bad as it was by then, and no less than at its
    first failure.
    """

    half_life: float
    _given: dict[str, tuple[float, float]]

    def __init__(self, half_life: float = 3.0) -> None:
        self.half_life = half_life
        self._given = {}

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __contains__(self, peer: object) -> bool:
        return peer in self._given

    def blame(self, peer: str, now: float) -> None:
        """A peer has failed."""
        worse = min(max(REPEAT * self._left(peer, now), FIRST_PENALTY), WORST_PENALTY)
        self._given = {other: given for other, given in self._given.items() if self._left(other, now) > FORGIVEN}
        self._given.pop(peer, None)
        while len(self._given) >= MAX_REMEMBERED:
            del self._given[next(iter(self._given))]
        self._given[peer] = (worse, now)

    def factor(self, peer: str, now: float) -> float:
        """How many times slower than it says the peer counts: 1 for one that has not failed, or long ago."""
        return 1.0 + self._left(peer, now)

    def factors(self, now: float) -> dict[str, float]:
        """The factor of each peer that has not been forgiven."""
        left = {peer: self._left(peer, now) for peer in self._given}
        return {peer: 1.0 + value for peer, value in left.items() if value > FORGIVEN}

    def _left(self, peer: str, now: float) -> float:
        given = self._given.get(peer)
        return given[0] * 0.5 ** (max(0.0, now - given[1]) / self.half_life) if given is not None else 0.0


class FullPeers:
    """Peers that had no room for a session, until the time at which they said to ask again."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def refused(self, peer: str, retry_after: float, now: float) -> None:
        """A peer said that it is full for `retry_after` seconds; nobody is believed more than a minute."""
        self._until = {other: until for other, until in self._until.items() if until > now}
        if len(self._until) < MAX_REMEMBERED and retry_after > 0:
            self._until[peer] = now + min(retry_after, 60.0)

    def waits(self, now: float) -> dict[str, float]:
        """Seconds until each peer is to be asked again."""
        return {peer: until - now for peer, until in self._until.items() if until > now}


class HopTimes:
    """What it takes to hand over from one peer to another, learned from whole sessions (seconds).

    A session shows what a token took all around the ring. What is left after the expected time of the stages is put
    down to the hand-overs in equal parts; over sessions that share some but not all of their hops, the slow ones stand
    out.
    """

    def __init__(self) -> None:
        self._between: dict[tuple[str, str], tuple[float, float]] = {}
        """The mean, and when it was last renewed; longest ago first."""

    def learn(self, peers: Sequence[str], token_seconds: float, stage_seconds: float, now: float) -> None:
        """A session over `peers` took `token_seconds` a token; its stages alone would take `stage_seconds`."""
        if len(peers) < 2:
            return
        each = max(0.0, token_seconds - stage_seconds) / len(peers)
        for pair in pairwise(peers):
            before, _ = self._between.pop(pair, (each, now))
            while len(self._between) >= MAX_REMEMBERED:
                del self._between[next(iter(self._between))]
            self._between[pair] = (before + WEIGHT * (each - before), now)

    def between(self, now: float) -> dict[tuple[str, str], float]:
        """Seconds from a peer to a peer, as far as it was learned in the last `MEMORY_SECONDS`."""
        return {pair: mean for pair, (mean, at) in self._between.items() if now - at < MEMORY_SECONDS}
