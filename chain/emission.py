"""How much an epoch may emit, and how an epoch's fees, emission and boosts become a pot. Wei; all divisions floor.

Emission never exceeds what the same traffic burned, so that who pays himself gains nothing: with w burned for one model
and W for all, emission(w, W) ≤ w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from chain.primitives import share_of

HALVINGS_COUNTED = 128
"""Terms of the sum that bounds a halving schedule; amounts are below 2^128, so later ones are zero."""


class EmissionSchedule(Protocol):
    """The most that each epoch may emit."""

    def budget(self, epoch: int) -> int:
        """Wei for one epoch; 0 for epoch 0."""
        ...

    @property
    def total(self) -> int:
        """Upper bound of the sum of all budgets."""
        ...


@dataclass(frozen=True, slots=True)
class HalvingSchedule:
    """`initial` wei an epoch, halved every `epochs_per_halving` epochs."""

    initial: int
    epochs_per_halving: int

    def __post_init__(self) -> None:
        if not 0 <= self.initial < 2**128 or not 1 <= self.epochs_per_halving < 2**64:
            raise ValueError("initial is below 2^128 wei and there is at least one epoch per halving")

    def budget(self, epoch: int) -> int:
        return self.initial >> ((epoch - 1) // self.epochs_per_halving) if epoch > 0 else 0

    @property
    def total(self) -> int:
        return self.epochs_per_halving * sum(self.initial >> k for k in range(HALVINGS_COUNTED))


@dataclass(frozen=True, slots=True)
class TableSchedule:
    """Cumulative wei at the end of months 0, 1, …, n, followed in straight lines within a month."""

    cumulative: tuple[int, ...]
    epochs_per_month: int

    def __post_init__(self) -> None:
        ascending = all(a <= b for a, b in pairwise(self.cumulative))
        in_range = self.cumulative and self.cumulative[0] >= 0 and self.cumulative[-1] < 2**128
        if not 2 <= len(self.cumulative) <= 1024 or not ascending or not in_range:
            raise ValueError("2 to 1024 cumulative amounts below 2^128 wei, not decreasing")
        if not 1 <= self.epochs_per_month < 2**32:
            raise ValueError("a month has 1 to 2^32 − 1 epochs")

    def cumulative_after(self, epochs: int) -> int:
        """Wei scheduled for the first `epochs` epochs together."""
        month, passed = divmod(epochs, self.epochs_per_month)
        if epochs == 0:
            return 0
        if month >= len(self.cumulative) - 1:
            return self.cumulative[-1]
        start, end = self.cumulative[month], self.cumulative[month + 1]
        return start + (end - start) * passed // self.epochs_per_month

    def budget(self, epoch: int) -> int:
        return self.cumulative_after(epoch) - self.cumulative_after(epoch - 1) if epoch > 0 else 0

    @property
    def total(self) -> int:
        return self.cumulative[-1]


@dataclass(frozen=True, slots=True)
class Split:
    """Where the fees of one model and epoch go; `net` is what is left for the providers."""

    shares: int
    burn: int
    royalty: int
    net: int


def split_fees(fees: int, shares: int, burn_bps: int, royalty_bps: int) -> Split:
    """Splits fees whose gateway shares (each floored by checkpoint) are already known; `net` may not be negative.

    Raises:
        ValueError: the parts exceed the fees.
    """
    burn, royalty = share_of(fees, burn_bps), share_of(fees, royalty_bps)
    net = fees - shares - burn - royalty
    if net < 0:
        raise ValueError("shares, burn and royalty exceed the fees")
    return Split(shares, burn, royalty, net)


def emission_for(budget: int, weight: int, total_weight: int, left: int) -> int:
    """Emission of one model and epoch: its burn, scaled down to the budget, and at most `left` under the cap."""
    scaled = weight if total_weight <= budget else budget * weight // total_weight
    return min(scaled, left)


@dataclass(frozen=True, slots=True)
class Pot:
    """What a model's providers share in an epoch, and what waits for the next pot."""

    amount: int
    carried: int


def fill_pot(net: int, emission: int, boost: int, carried: int, units: int) -> Pot:
    """Without work there is no pot, and everything waits."""
    everything = net + emission + boost + carried
    return Pot(everything, 0) if units else Pot(0, everything)


def rewards(pot: int, units: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """floor(pot × units ÷ all units) for each, and the remainder: less than one wei per item."""
    total = sum(units)
    paid = tuple(pot * own // total for own in units) if total else tuple(0 for _ in units)
    return paid, pot - sum(paid)
