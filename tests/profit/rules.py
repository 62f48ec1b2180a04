"""What honest software risks, and which of its decisions it takes in an old way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.profit.world import BLOCKS, PRICE

INCREMENT: Final = 10
"""Tokens that a developer promises ahead of what it has received."""
CREDIT: Final = 10 * BLOCKS
"""Units that a provider works without a voucher."""
LINE: Final = 200 * PRICE
"""Least line that a gateway gives a provider that it uses."""
FLOOR: Final = 1
"""Wei for which nobody sends a transaction."""
LOOKS: Final = 4
"""How often software looks again after what it did, before time goes on."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which of its decisions the software takes in the old way (`old_rules` turns them on one by one)."""

    blind_collector: bool = False
    """Any voucher counts, whatever stands behind it."""
    next_epoch_receipt: bool = False
    """Receipts for the next epoch are signed for, and units are units, whatever they cost there."""
    grace: bool = False
    """A restarted gateway signs on the provider's word."""
    stale_facts: bool = False
    """Eligibility and keys are looked at once, when the other side introduces itself."""
    failed_is_free: bool = False
    """What came before an answer failed is not charged."""
    request_tariff: bool = False
    """A request is charged at the price at which it began."""
