"""What a gateway's accounts need to know of the chain, as ports (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from chain.primitives import Address


class Unavailable(Exception):
    """The chain could not be asked, and what was known of it is too old."""


@dataclass(frozen=True, slots=True)
class Backing:
    """What the escrow holds for a payer and is not thawing, and what it has paid this gateway from it, ever; in wei."""

    available: int
    redeemed: int

    @property
    def total(self) -> int:
        """The most that a cumulative voucher to this gateway can be worth."""
        return self.available + self.redeemed


class PriceSource(Protocol):
    """Prices of models, by epoch. Every method raises `Unavailable`."""

    async def epoch(self) -> int:
        """The current epoch; may be a few seconds old."""

    async def price_of(self, name: str, digest: str, epoch: int) -> int | None:
        """Wei for one weighted token in `epoch`, the current one or one of the next two, in which a change that is
        announced now cannot bind yet; None for a model that the chain does not offer."""

    async def close(self) -> None:
        """Ask nothing any more."""


class EscrowView(Protocol):
    """Deposits of developers, as one gateway sees them. Every method raises `Unavailable`."""

    async def deposit_of(self, payer: Address) -> Backing:
        """May be a few seconds old."""

    async def may_sign(self, payer: Address, signer: Address) -> bool:
        """Whether `signer` is a key that `payer` authorised."""

    async def close(self) -> None:
        """Ask nothing any more."""
