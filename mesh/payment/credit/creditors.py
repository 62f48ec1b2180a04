"""The providers that a gateway owes: what each has said on its channel, and what is to be done about its line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mesh.errors import ProtocolViolation
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.vouching import VoucherLine
from mesh.wire.messages import Message
from mesh.wire.paying import Receipt, Voucher


@dataclass(slots=True)
class Creditor:
    """A provider that has welcomed us on one control channel."""

    peer: str
    binding: Binding
    books: Books
    say: Callable[[Message], Awaitable[None]]
    credit: int
    """Weighted tokens that it works for before a voucher comes."""
    heard: bool = False
    """A receipt has come on this channel."""
    violation: ProtocolViolation | None = None
    """What it has done wrong: nothing more is signed on this channel, which ends with its next receipt."""


@dataclass(slots=True)
class Books:
    """The line of one provider and what is to be done about it; one task at a time does it."""

    line: VoucherLine
    seen: int
    """Sequence number of the newest receipt that has come."""
    inbox: dict[int, Receipt] = field(default_factory=dict)
    """The newest receipt of each epoch that has not been looked at: the current epoch, and the ones beside it."""
    creditor: Creditor | None = None
    busy: bool = False
    """Its task runs."""
    news: bool = False
    """Something has come since that looked last."""
    again: bool = False
    """The provider may have missed our last voucher."""
    short: bool = False
    """It says that our line for it is too short."""
    differs: bool = False
    """One of us has forgotten what it signed: each is to show the other what it holds."""
    compared_by: float = 0.0
    """Nothing is signed before the provider has shown what it holds, or this moment (`time.monotonic()`)."""
    shown: dict[int, Voucher] = field(default_factory=dict)
    """By epoch, the largest voucher that the provider shows as ours, and that our books do not know."""
    told_at: float = float("-inf")

    @property
    def waits(self) -> bool:
        """Whether there may be something to do."""
        return bool(self.inbox or self.shown) or self.again or self.short or self.differs or self.line.claimed
