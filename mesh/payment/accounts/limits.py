"""Who may ask how often, and who has a place kept free: token buckets and reserved places (pure; time is an argument).

Source of the bucket: the generic cell rate idea of ITU-T I.371, in its token-bucket form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """Lets `per_minute` through a minute, all of it at once if need be. May be drawn below zero, which delays the next.

    Times are seconds of one monotonic clock; one that steps back adds nothing.
    """

    per_minute: float
    level: float = field(default=math.nan)
    at: float = field(default=-math.inf)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there (more than a full bucket: until it is full); 0 is now."""
        self._fill(now)
        missing = min(amount, self.per_minute) - self.level
        return max(0.0, missing * 60.0 / self.per_minute)

    def draw(self, amount: float, now: float) -> None:
        """Take `amount`, whether it is there or not."""
        self._fill(now)
        self.level -= amount

    def _fill(self, now: float) -> None:
        if math.isnan(self.level):
            self.level = self.per_minute
        elif now > self.at:
            self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / 60.0)
        self.at = max(self.at, now)


@dataclass(slots=True)
class Places:
    """`total` places for requests, some of them kept free for accounts that reserved them; the others are shared.

    An account takes its own places first and shared ones after them, of which it may hold no more than are left: one
    alone half of them, two a third each, so that there is always room for another. (Source: the dynamic thresholds of
    A. Choudhury and E. Hahne, «Dynamic queue length thresholds for shared-memory packet switches», 1998.)
    """

    total: int
    reservable: int
    """Most places that may be reserved by all accounts together."""
    reserved: dict[bytes, int] = field(default_factory=dict)
    running: dict[bytes | None, int] = field(default_factory=dict)

    def reserve(self, payer: bytes, places: int) -> int:
        """Reserve places for an account, or with 0 give them up; how many it has now (fewer, where none are left)."""
        others = sum(self.reserved.values()) - self.reserved.get(payer, 0)
        granted = max(0, min(places, self.reservable - others))
        if granted:
            self.reserved[payer] = granted
        else:
            self.reserved.pop(payer, None)
        return granted

    def enter(self, payer: bytes | None) -> bool:
        """Take a place; False when none is free for this account (None: nobody's)."""
        own = self.reserved.get(payer, 0) if payer is not None else 0
        mine = self.running.get(payer, 0)
        if mine >= own:
            free = self.total - sum(self.reserved.values()) - self._shared_running()
            if free <= (0 if payer is None else mine - own):
                return False
        self.running[payer] = mine + 1
        return True

    def leave(self, payer: bytes | None) -> None:
        """Give a place back."""
        left = self.running[payer] - 1
        if left:
            self.running[payer] = left
        else:
            del self.running[payer]

    def _shared_running(self) -> int:
        return sum(
            max(0, count - (self.reserved.get(payer, 0) if payer is not None else 0))
            for payer, count in self.running.items()
        )
