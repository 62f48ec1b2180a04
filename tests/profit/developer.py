"""An honest developer: what it promises for what it received."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from chain.primitives import key_of
from tests.profit.rules import INCREMENT
from tests.profit.world import World, account


@dataclass(slots=True)
class Developer:
    """An honest developer: pays for what it has received, and one increment ahead."""

    world: World
    name: str
    spent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    signed: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def receive(self, gateway: str, tokens: int, price: int) -> None:
        self.spent[gateway] += tokens * price

    def promise(self, gateway: str, price: int) -> int:
        """The cumulative amount that it has signed now."""
        key = key_of(gateway)
        escrow, payer = self.world.ledger.escrow, account(self.name).address
        backing = escrow.available(payer, key) + escrow.redeemed(payer, key)
        self.signed[gateway] = max(self.signed[gateway], min(backing, self.spent[gateway] + INCREMENT * price))
        return self.signed[gateway]
