"""How long a provider waits for its money, and what it does then (pure: events in, actions out)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

NOTICE_SECONDS = 5.0
"""A gateway is told that often that its line is too short."""


class Act(enum.Enum):
    """What is to be done about a gateway whose sessions wait."""

    NOTICE = enum.auto()
    """Tell it what is missing."""
    DROP = enum.auto()
    """End the sessions that wait."""
    PARDON = enum.auto()
    """Wait no longer for the vouchers that are missing, and let it open sessions again."""


@dataclass(frozen=True, slots=True)
class Debt:
    """What keeps the work of a gateway waiting. Units."""

    awaited: int
    """Done, and no voucher has come."""
    uncovered: int
    """Vouched for, and not guaranteed."""
    credit: int
    """What may be unpaid."""
    barred: bool
    """It may not be served at all."""


@dataclass(slots=True)
class Dunning:
    """Where one gateway stands. Times are `time.monotonic()` seconds."""

    stalled_since: float | None = None
    dropped: bool = False
    pardoned_at: float = 0.0
    """When one who was dropped gets another chance."""
    noticed_at: float = float("-inf")

    def stall(self, now: float) -> None:
        """Work waits for money."""
        if self.stalled_since is None:
            self.stalled_since = now

    def wait(self, now: float) -> None:
        """Work waits, but perhaps for a prompt of its own that still runs: nobody is late yet."""
        if self.stalled_since is not None:
            self.stalled_since = now

    def pay(self) -> None:
        """More counts as paid than before."""
        self.stalled_since, self.dropped = None, False

    def step(self, now: float, debt: Debt, *, pause: float, pardon_after: float) -> list[Act]:
        """What is due at `now`. Only missing vouchers are pardoned: a line that is much too short has to be funded."""
        if debt.barred:
            return [Act.DROP]
        acts = []
        stalled = self.stalled_since
        if stalled is not None and debt.uncovered and now - self.noticed_at >= NOTICE_SECONDS:
            self.noticed_at = now
            acts.append(Act.NOTICE)
        if self.dropped:
            if now >= self.pardoned_at and (debt.awaited or 2 * debt.uncovered <= debt.credit):
                self.stalled_since, self.dropped = None, False
                acts.append(Act.PARDON)
        elif stalled is not None and now - stalled > pause:
            self.dropped, self.pardoned_at = True, now + pardon_after
            acts.append(Act.DROP)
        return acts
