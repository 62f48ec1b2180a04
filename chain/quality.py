"""Quality of service of a Crynux node: how fast it is in the long run, times how reliable it is now.

QoS = (Q_long ÷ 10) · H. Q_long is the mean of the last 50 validation ranks; H falls to 0.3 of itself with every timeout
of the node's own and recovers towards 1 with a time constant of 30 minutes. Scores are integers in units of 10^−18,
floored, so nodes and chain agree on them; a recovery is within one unit of the true value, less the floors before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from chain.fixed import ONE_BITS, exp_neg

WAD: Final = 10**18
"""A score of 1."""
RANK_SCORES: Final = (10, 5, 2)
"""Points of the first, second and third result of a validation; an aborted node gets 0."""
MAX_SCORE: Final = 10
NEW_NODE_SCORE: Final = 5
POOL: Final = 50
RECOVERY_SECONDS: Final = 30 * 60


@dataclass(frozen=True, slots=True)
class Quality:
    """`ranks`: points of the last validations, oldest first. `health`: H at `since` (seconds), in units of 10^−18."""

    ranks: tuple[int, ...] = ()
    health: int = WAD
    since: int = 0

    def ranked(self, points: int) -> Quality:
        """After one more validation. Raises ValueError for points that no rank has."""
        if points not in (*RANK_SCORES, 0):
            raise ValueError(f"a rank scores 10, 5, 2 or 0, not {points}")
        return replace(self, ranks=(*self.ranks, points)[-POOL:])

    def timed_out(self, now: int) -> Quality:
        """After a timeout of the node's own (never one of the relay or the task's creator)."""
        return replace(self, health=self.health_at(now) * 3 // 10, since=max(now, self.since))

    def health_at(self, now: int) -> int:
        """1 − (1 − H)·e^(−Δt ÷ τ), in units of 10^−18; time never runs backwards."""
        passed = max(now - self.since, 0)
        return WAD - -(-(WAD - self.health) * exp_neg(passed, RECOVERY_SECONDS) >> ONE_BITS)

    def long_term(self) -> int:
        """Q_long in units of 10^−18, 0 … 10; a node without validations stands in the middle."""
        if not self.ranks:
            return NEW_NODE_SCORE * WAD
        return sum(self.ranks) * WAD // len(self.ranks)

    def score(self, now: int) -> int:
        """QoS in units of 10^−18, 0 … 1."""
        return self.long_term() * self.health_at(now) // (MAX_SCORE * WAD)
