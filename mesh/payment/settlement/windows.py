"""The windows around an epoch's end (pure); what is due in them is planned in `gateway_plan` and `provider_plan`.

Work is done in epoch e; its checkpoint is posted in e + 1; omissions are shown through e + d; challenges that the
gateway must answer open through e + d − 1 and are answered through e + d; claims begin with e + d and never end
(docs/chain-rules.md, sections 6 and 7; d is `epochRewardDelay`). Every plan is made from what the chain says now, so a
step that has been taken is not due again, and a process that was away simply plans what is left.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_RANGE = 512
"""Most epochs that one claim may name."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The chain's time. What is sent now is mined in epoch `upcoming` at the earliest.

    Windows open by `now` and close by `upcoming`: at the seam between two epochs both sides are careful.
    """

    now: int
    """Epoch of the latest block."""
    upcoming: int
    """Epoch of the next block."""
    delay: int
    """`epochRewardDelay`, in epochs."""
    blocks_left: int
    """Blocks that `upcoming` still has."""

    @property
    def claimable(self) -> int:
        """Last epoch that may be claimed; 0 for none."""
        return max(0, self.now - self.delay)

    def may_post(self, epoch: int) -> bool:
        return self.now == self.upcoming == epoch + 1

    def may_challenge(self, epoch: int) -> bool:
        """Whether a challenge that the chain decides at once is accepted."""
        return epoch + 1 <= self.now and self.upcoming <= epoch + self.delay

    def may_open(self, epoch: int) -> bool:
        """Whether a challenge that the gateway must answer is accepted."""
        return epoch + 1 <= self.now and self.upcoming <= epoch + self.delay - 1

    def may_claim(self, epoch: int) -> bool:
        return 1 <= epoch <= self.claimable

    def may_enforce_sla(self, epoch: int) -> bool:
        """Whether a missed service level of that epoch can be enforced."""
        return epoch + self.delay <= self.now and self.upcoming <= epoch + 2 * self.delay

    def is_over(self, epoch: int) -> bool:
        """Whether every window but that of claims has closed."""
        return self.now > epoch + self.delay


class Status(enum.IntEnum):
    """Of a checkpoint, as the chain counts them. What is posted stands for good."""

    NONE = 0
    POSTED = 1
