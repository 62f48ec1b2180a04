"""What units of work cost, as the chain computes it (pure, integers only)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tariff:
    """The price of a model in one epoch: wei of a weighted token, and the model's blocks."""

    price: int
    blocks: int

    def fee(self, units: int) -> int:
        """`feeFor` of the chain: wei that `units` cost, rounded up."""
        return -(-units * self.price // self.blocks)

    def units(self, wei: int, most: int) -> int:
        """Units that `wei` pay for, at most `most`."""
        return most if self.price == 0 else min(most, wei * self.blocks // self.price)
