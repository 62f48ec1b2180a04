"""What a gateway owes a provider, as the gateway keeps it: what it may sign for (pure, integers only).

It counts the units that tokens which reached it bear out, epoch by epoch, and signs for what a receipt claims and that
count covers. A unit never costs more than it did in the epoch in which its tokens came: where the price has risen
since, fewer units are signed for, so that a provider that claims late, or in the next epoch, gains nothing by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.errors import ProtocolViolation
from mesh.payment.credit.line import GENESIS, EpochUnits, Pair, ReceiptClaim
from mesh.payment.credit.units import units_at
from mesh.wire.paying import Receipt


@dataclass(slots=True)
class VoucherLine:
    """The gateway's side of one pair. Prices are wei of one weighted token, by epoch."""

    pair: Pair
    unsigned: dict[int, int] = field(default_factory=dict)
    """Units that tokens bear out and that are not signed for, by the epoch in which the tokens came."""
    epochs: dict[int, EpochUnits] = field(default_factory=dict)
    sequence: int = 0
    link: bytes = GENESIS
    verified: int = 0
    """Units that tokens bear out, in all that we know of."""
    signed: int = 0
    """Units that were signed for out of those."""

    # --- receipts ---

    def follows(self, receipt: Receipt) -> bool:
        """Whether a receipt is newer than all that we hold, and takes nothing back."""
        counts = self.epochs.get(receipt.epoch, EpochUnits())
        return receipt.sequence > self.sequence and receipt.units >= counts.receipted

    def check_receipt(self, epoch: int, sequence: int, units: int) -> ReceiptClaim:
        """The claim in a receipt that follows the last one. Raises `ProtocolViolation`."""
        counts = self.epochs.get(epoch, EpochUnits())
        if sequence <= self.sequence:
            raise ProtocolViolation(f"receipt {sequence} comes after receipt {self.sequence}")
        if units < counts.receipted:
            raise ProtocolViolation(f"a receipt takes back {counts.receipted - units} units")
        return ReceiptClaim(self.pair, epoch, sequence, units, self.link)

    def receipt(self, claim: ReceiptClaim) -> None:
        """Count a receipt that `check_receipt` passed and that is safely written down."""
        self.sequence = claim.sequence
        self.link = claim.link
        counts = self.epochs.setdefault(claim.epoch, EpochUnits())
        counts.receipted = max(counts.receipted, claim.units)

    def recall(self, epoch: int, units: int) -> None:
        """Count a voucher of ours that our books had forgotten, and that is written down again.

        What was signed since, from the older books on, is still owed on top of it: it was for other work.
        """
        counts = self.epochs.setdefault(epoch, EpochUnits())
        if units <= counts.vouched:
            return
        since = counts.vouched - counts.base
        if since:
            self.unsigned[epoch] = self.unsigned.get(epoch, 0) + since
        counts.base = counts.vouched = units
        counts.receipted = max(counts.receipted, units)

    # --- tokens ---

    def accrue(self, epoch: int, units: int) -> None:
        """Tokens have reached us in `epoch` that bear out `units`."""
        self.verified += units
        self.unsigned[epoch] = self.unsigned.get(epoch, 0) + units

    def turn(self, epoch: int, prices: Mapping[int, int]) -> None:
        """The epoch is `epoch` now: what is left of epochs before the last one moves into that, at its price there."""
        last = epoch - 1
        for past in [each for each in self.unsigned if each < last]:
            if past in prices and last in prices:
                moved = units_at(self.unsigned.pop(past), prices[past], prices[last])
                self.unsigned[last] = self.unsigned.get(last, 0) + moved
        for past in [each for each in self.epochs if each < last]:
            del self.epochs[past]

    # --- vouchers ---

    @property
    def claimed(self) -> bool:
        """Whether something is claimed that is not signed for, and tokens that may bear it out have come."""
        return bool(self.unsigned) and any(counts.receipted > counts.vouched for counts in self.epochs.values())

    def due(self, epoch: int, prices: Mapping[int, int]) -> int | None:
        """Cumulative units of `epoch` to sign for now, or None when that would say nothing new."""
        counts = self.epochs.get(epoch)
        if counts is None:
            return None
        worth = sum(
            units_at(units, prices[came], prices[epoch]) if came != epoch else units
            for came, units in self.unsigned.items()
            if came == epoch or (came < epoch and came in prices and epoch in prices)
        )
        more = min(counts.receipted - counts.vouched, worth)
        return counts.vouched + more if more > 0 else None

    def left(self, epoch: int, units: int, prices: Mapping[int, int]) -> dict[int, int]:
        """What `unsigned` is once `units` (cumulative) of `epoch` are signed for, the newest work first."""
        more = units - self.epochs[epoch].vouched
        rest = dict(self.unsigned)
        for came in sorted((each for each in rest if each <= epoch), reverse=True):
            if not more:
                break
            if came == epoch or (came in prices and epoch in prices):
                before, price = (1, 1) if came == epoch else (prices[came], prices[epoch])
                taken = min(more, units_at(rest[came], before, price))
                rest[came] -= taken if price <= before else -(-taken * price // before)
                more -= taken
        return {came: units for came, units in rest.items() if units}

    def sign(self, epoch: int, units: int, prices: Mapping[int, int]) -> None:
        """Count a voucher that is written down."""
        counts = self.epochs[epoch]
        self.unsigned = self.left(epoch, units, prices)
        self.signed += units - counts.vouched
        counts.vouched = units
