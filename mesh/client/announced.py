"""Which model names were announced lately: one whose providers are away is not one that nobody knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from mesh.errors import NoRoute
from mesh.swarm.route import GAP_RETRY_SECONDS

ANNOUNCED_SECONDS: Final = 3600.0
"""So long after somebody announced it a name is one whose providers may come back."""
_MOST: Final = 1024


class AnnouncedNames:
    """Names and when they were announced last, by a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def note(self, name: str) -> None:
        """It is announced now."""
        self._seen.pop(name, None)
        self._seen[name] = self._clock()
        while len(self._seen) > _MOST:
            del self._seen[next(iter(self._seen))]

    def check(self, name: str) -> None:
        """Raises `NoRoute`, which says when to try again, for a name that was announced lately."""
        age = self._clock() - self._seen[name] if name in self._seen else None
        if age is not None and age <= ANNOUNCED_SECONDS:
            raise NoRoute(
                f"no provider of {name} is there now; it was announced {age:,.0f} s ago", retry_after=GAP_RETRY_SECONDS
            )
