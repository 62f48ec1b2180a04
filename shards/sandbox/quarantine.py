"""How long something that keeps breaking its limits is set aside (pure)."""

from __future__ import annotations

STRIKES = 3
"""So many breaches within `WINDOW` are one too many."""
WINDOW = 60.0
FIRST = 30.0
LONGEST = 900.0
FORGOTTEN_AFTER = 1800.0
"""Seconds without a breach after which the next quarantine is a short one again."""


class Quarantine:
    """Counts breaches; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._strikes: list[float] = []
        self._until = 0.0
        self._next = FIRST
        self._last = 0.0

    def strike(self, now: float) -> None:
        """Another breach."""
        if now - self._last > FORGOTTEN_AFTER:
            self._next = FIRST
        self._last = now
        self._strikes = [*(strike for strike in self._strikes if now - strike < WINDOW), now]
        if len(self._strikes) >= STRIKES:
            self._strikes.clear()
            self._until = now + self._next
            self._next = min(2 * self._next, LONGEST)

    def seconds_left(self, now: float) -> float:
        """How long it is still set aside; 0 when it may be used."""
        return max(0.0, self._until - now)
