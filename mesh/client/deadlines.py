"""How long a session waits for its next step before it suspects a hop, learned from its own steps (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

GAIN: Final = 1 / 8
DEVIATION_GAIN: Final = 1 / 4
DEVIATIONS: Final = 4


@dataclass(frozen=True, slots=True)
class DeadlineBounds:
    """Between which limits (seconds) the learned deadlines stay, and how far above a usual step they lie.

    After `suspect` seconds of silence the hops are asked whether they are there, which costs an honest one nothing: so
    it may be short. After `lost` seconds the route is given up although every hop answers.
    """

    suspect_least: float = 1.0
    suspect_most: float = 10.0
    suspect_unknown: float = 5.0
    """Before anything is known of the route: the prompt, or its first piece, is being run."""
    suspect_factor: float = 4.0
    lost_least: float = 20.0
    lost_most: float = 60.0
    lost_factor: float = 64.0


@dataclass(slots=True)
class StepTimes:
    """The estimator of TCP's retransmission timer (Jacobson 1988; RFC 6298), fed with the waits between tokens."""

    bounds: DeadlineBounds = field(default_factory=DeadlineBounds)
    _mean: float | None = None
    _deviation: float = 0.0

    def observe(self, seconds: float) -> None:
        """A step has taken so long."""
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += DEVIATION_GAIN * (abs(seconds - self._mean) - self._deviation)
        self._mean += GAIN * (seconds - self._mean)

    @property
    def usual(self) -> float | None:
        """What nearly every step stays below; None before the first one."""
        return None if self._mean is None else self._mean + DEVIATIONS * self._deviation

    @property
    def suspect(self) -> float:
        """Seconds of silence after which the hops are asked whether they are there."""
        bounds = self.bounds
        if self.usual is None:
            wanted = bounds.suspect_unknown
        else:
            wanted = max(bounds.suspect_least, bounds.suspect_factor * self.usual)
        return min(wanted, bounds.suspect_most, bounds.lost_most)

    @property
    def lost(self) -> float:
        """Seconds of silence after which the route is given up although all its hops answer."""
        bounds = self.bounds
        if self.usual is None:
            return bounds.lost_most
        return min(max(bounds.lost_least, bounds.lost_factor * self.usual), bounds.lost_most)
