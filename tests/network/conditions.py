"""What a line does to a packet: lose it, or deliver it at a time; a function of packet, time and randomness alone."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Conditions:
    """One direction of a line. Times in seconds, sizes in bytes. Raises `ValueError` on what cannot be."""

    loss: float = 0.0
    """Probability that a packet vanishes, independent of all others."""
    delay: float = 0.0
    """Mean time on the way."""
    jitter: float = 0.0
    """Times are uniform in `delay` ± `jitter`; never below 0."""
    reorder: bool = False
    """Whether a packet may overtake an earlier one (as under netem). Else it waits for it, so that mean times grow."""
    rate: float | None = None
    """Bytes a second; None for a line without a limit."""
    queue: int = 256 * 1024
    """Bytes that wait in front of a line with a rate; what comes on top is lost."""

    def __post_init__(self) -> None:
        numbers = (self.loss, self.delay, self.jitter, self.rate or 0.0)
        if (
            self.rate == 0
            or not all(math.isfinite(number) and number >= 0 for number in numbers)
            or self.loss > 1
            or self.queue < 0
        ):
            raise ValueError(f"no line is like this: {self}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        return cls(**fields)


PERFECT = Conditions()


class Fate(StrEnum):
    """Why a packet was not delivered, or that it was."""

    DELIVERED = "delivered"
    LOST = "lost"
    OVERFLOWED = "overflowed"
    CUT = "cut"


class Line:
    """One direction between two hosts. `now` never runs backwards."""

    def __init__(self, conditions: Conditions, rng: random.Random) -> None:
        self.conditions = conditions
        self._rng = rng
        self._free_at = -math.inf
        """When the last packet that was accepted has left the queue."""
        self._latest = -math.inf
        """When the last packet arrives."""
        self._cut_from = math.inf
        self._cut_until = math.inf
        self.counts = dict.fromkeys(Fate, 0)

    def cut(self, now: float, seconds: float = math.inf, *, after: float = 0.0) -> None:
        """Let nothing pass for a time, from `now + after` on; what is on its way when that begins is lost too.

        One that begins while the line is cut already makes the cut longer; else it takes the place of the one before.
        """
        begins, ends = now + after, now + after + seconds
        if self._cut_from <= begins < self._cut_until:
            self._cut_until = max(self._cut_until, ends)
        else:
            self._cut_from, self._cut_until = begins, ends

    def heal(self) -> None:
        """End or call off a cut."""
        self._cut_from = self._cut_until = math.inf

    def is_cut(self, now: float) -> bool:
        return self._cut_from <= now < self._cut_until

    def send(self, size: int, now: float) -> float | None:
        """When a packet of `size` bytes that enters now arrives; None if it never does."""
        conditions = self.conditions
        if self._cut_from <= now < self._cut_until:
            self.counts[Fate.CUT] += 1
            return None
        if conditions.loss and self._rng.random() < conditions.loss:
            self.counts[Fate.LOST] += 1
            return None
        leaves = now
        if conditions.rate is not None:
            starts = max(now, self._free_at)
            if (starts - now) * conditions.rate + size > conditions.queue:
                self.counts[Fate.OVERFLOWED] += 1
                return None
            leaves = self._free_at = starts + size / conditions.rate
        arrives = leaves + conditions.delay
        if conditions.jitter:
            arrives = max(leaves, arrives + conditions.jitter * (2 * self._rng.random() - 1))
        if not conditions.reorder and arrives < self._latest:
            arrives = self._latest
        self._latest = arrives
        return arrives

    def arrive(self, now: float) -> bool:
        """Whether a packet that `send` accepted still arrives now that its time has come."""
        delivered = not self._cut_from <= now < self._cut_until
        self.counts[Fate.DELIVERED if delivered else Fate.CUT] += 1
        return delivered
