"""Which way the next channel to a peer goes, from what was tried and measured (pure).

The direct path is taken where it works. Where it fails it is tried again after a while that doubles; where it is
measured to be clearly slower than the control path, that one is taken until the next measurement.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

PeerId = str

FIRST_RETRY: Final = 5.0
LAST_RETRY: Final = 300.0
"""Seconds until a direct path that failed is tried again: the first time, and at most."""
SLOW_RETRY: Final = 60.0
"""Seconds until a direct path that was slower is measured again."""
SAMPLES: Final = 8
SLOWER_FACTOR: Final = 1.5
SLOWER_BY: Final = 0.005
"""A direct path is slower when its best round trip is over 1.5 times the other's plus 5 ms."""
MAX_PEERS: Final = 4096


@dataclass(slots=True)
class Pair:
    """What is known of the paths to one peer. Round trips in seconds."""

    direct: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    control: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    failures: int = 0
    retry_at: float = 0.0
    problem: str | None = None

    def slower(self) -> bool:
        """True when direct was measured, and is clearly slower."""
        if len(self.direct) < 3 or not self.control:
            return False
        return min(self.direct) > SLOWER_FACTOR * min(self.control) + SLOWER_BY


class Paths:
    """The pairs that this node has to do with; the one unused for longest makes room."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[PeerId, Pair] = OrderedDict()

    def pair(self, peer: PeerId) -> Pair:
        """What is known of `peer`."""
        pair = self._pairs.get(peer)
        if pair is None:
            pair = self._pairs[peer] = Pair()
            if len(self._pairs) > MAX_PEERS:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end(peer)
        return pair

    def known(self, peer: PeerId) -> Pair | None:
        """The same, but nothing is made for a peer that we never tried."""
        return self._pairs.get(peer)

    def wants_direct(self, peer: PeerId, now: float) -> bool:
        """True when the next channel shall try the direct path."""
        pair = self.pair(peer)
        if now < pair.retry_at:
            return False
        if pair.slower():
            pair.direct.clear()
            pair.retry_at = now + SLOW_RETRY
            pair.problem = "slower than the control path"
            return False
        return True

    def worked(self, peer: PeerId) -> None:
        """A channel was opened directly."""
        pair = self.pair(peer)
        pair.failures, pair.retry_at, pair.problem = 0, 0.0, None

    def failed(self, peer: PeerId, problem: str, now: float) -> None:
        """The direct path failed though the peer is there."""
        pair = self.pair(peer)
        pair.retry_at = now + min(FIRST_RETRY * 2 ** min(pair.failures, 16), LAST_RETRY)
        pair.failures += 1
        pair.problem = problem[:200]

    def measured(self, peer: PeerId, direct: bool, seconds: float) -> None:
        """One round trip on one of the paths."""
        pair = self.pair(peer)
        (pair.direct if direct else pair.control).append(seconds)
