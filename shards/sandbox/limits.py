"""What one call into a sandbox may take (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take: seconds of processor time, bytes of memory, bytes of answer."""

    seconds: float
    memory: int
    answer: int
    blame: bool = True
    """A breach counts towards the box's quarantine (not where the caller's own input may be why)."""

    @property
    def wall_seconds(self) -> float:
        """Deadline of the call: the machine may be busy with other things."""
        return min(8 * self.seconds + 8, 60.0)


@dataclass(frozen=True, slots=True)
class Call:
    """An operation of the sandbox's module, its arguments (as msgpack has them) and its limits."""

    operation: str
    arguments: tuple[Any, ...]
    limits: Limits
