"""What one peer may take of a node: how often it may ask, and bytes of frames that are not whole yet (pure).

Time is an argument (seconds of one monotonic clock). The bucket is the generic cell rate idea of ITU-T I.371.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

K = TypeVar("K")

MOST_PEERS: Final = 4096
"""Peers whose rates are remembered; who was seen longest ago is forgotten, and starts anew."""


@dataclass(slots=True)
class Rate:
    """Lets `per_second` through in the long run, and `burst` at once."""

    per_second: float
    burst: float
    _used: float = 0.0
    _at: float = 0.0

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Count `amount`; seconds until it would have been let through (0: it is)."""
        elapsed = max(0.0, now - self._at)
        self._at = max(now, self._at)
        self._used = min(max(0.0, self._used - elapsed * self.per_second) + amount, 2 * self.burst + amount)
        return max(0.0, (self._used - self.burst) / self.per_second)

    def take(self, now: float) -> bool:
        """Whether one more may pass; one that may not does not count."""
        return self.refusal(now) == 0.0

    def refusal(self, now: float) -> float:
        """0 when one more may pass, else the seconds until it may; one that may not does not count."""
        seconds = self.wait(now)
        if seconds:
            self._used -= 1.0
        return seconds


@dataclass(slots=True)
class Rates:
    """One `Rate` for every peer."""

    per_second: float
    burst: float
    _rates: OrderedDict[str, Rate] = field(default_factory=OrderedDict)

    def of(self, peer: str) -> Rate:
        """The peer's own."""
        rate = self._rates.get(peer)
        if rate is None:
            rate = self._rates[peer] = Rate(self.per_second, self.burst)
            if len(self._rates) > MOST_PEERS:
                self._rates.popitem(last=False)
        self._rates.move_to_end(peer)
        return rate


class Unfinished(Generic[K]):
    """Bytes of frames on their way, by who holds them. Over a bound the frame that began first has to go.

    An honest frame is whole in the time that its bytes take; what is kept open longest is what loses.
    """

    def __init__(self, *, total: int, per_peer: int, peer_of: Callable[[K], str]) -> None:
        self._total = total
        self._per_peer = per_peer
        self._peer_of = peer_of
        self._held: OrderedDict[K, int] = OrderedDict()  # in the order in which their frames began
        self._of_peer: Counter[str] = Counter()
        self._sum = 0

    @property
    def held(self) -> int:
        """Bytes of all of them together."""
        return self._sum

    def hold(self, holder: K, size: int) -> K | None:
        """`holder` has `size` bytes of a frame now (0: none); returns who must give up its frame, if anybody."""
        peer = self._peer_of(holder)
        more = size - self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)
        self._sum += more
        self._of_peer[peer] += more
        if not self._of_peer[peer]:
            del self._of_peer[peer]
        if more <= 0:
            return None
        if self._of_peer[peer] > self._per_peer:
            return next(each for each in self._held if self._peer_of(each) == peer)
        return next(iter(self._held)) if self._sum > self._total else None
