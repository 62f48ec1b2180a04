"""The gateways that a provider works for: what each owes, and what of it is guaranteed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from chain.units import format_func
from mesh.identity import Identity
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.cover import Cover, Promise
from mesh.payment.credit.dunning import Debt, Dunning
from mesh.payment.credit.line import CreditLine, EpochUnits, Pair, ReceiptClaim
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.credit.units import W_GENERATED, ModelPrice, SessionMeter
from mesh.wire.messages import Message
from mesh.wire.paying import Receipt

FREE_POSITIONS = 2
"""Positions that a session may have run ahead of what its gateway knows when it closes."""


@dataclass(slots=True)
class Customer:
    """A gateway that has introduced itself. Its line and its cover are only read and changed on the event loop."""

    peer: str
    binding: Binding
    line: CreditLine
    tell: Callable[[Message], None]
    connected: bool = True
    barred: str | None = None
    """Why it is not served now, whatever it pays."""
    guarantee: int = 0
    """Wei of its line for us."""
    outstanding: int = 0
    """Wei that its vouchers are worth that are not safe yet."""
    cover: Cover = field(default_factory=Cover)
    promises: dict[int, Promise] = field(default_factory=dict)
    tariffs: dict[int, ModelPrice] = field(default_factory=dict)
    dunning: Dunning = field(default_factory=Dunning)
    receipted_at: float = 0.0
    replayed: int = 0
    last: Receipt | None = None
    """The newest receipt, sent again to a gateway that comes back."""
    unwritten: ReceiptClaim | None = None
    """A claim whose receipt the disk has not taken: it is sent once it is written."""
    order: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Its vouchers and comparisons are taken in the order in which they came."""
    recalled: bool = False
    """Our books were older than what it holds: its vouchers may be for work that we have forgotten."""
    missed: bool = False
    """A voucher came that the disk did not take: the gateway repeats it when it hears the last receipt again."""
    kept: int = 0
    """Units of the credit that prompts under way still need."""
    large: Bill | None = None
    """The session whose prompt is larger than the credit, and runs nevertheless."""

    def has_room(self, units: int) -> bool:
        """Whether `units` more may be begun, beside what prompts under way still need."""
        return self.barred is None and self.line.has_room(units + self.kept)

    @property
    def debt(self) -> Debt:
        return Debt(self.line.awaited, self.line.uncovered, self.line.credit, self.barred is not None)

    @property
    def owes(self) -> str:
        """Why its work waits, in words for its operator."""
        if self.barred is not None:
            return self.barred
        pair = self.line.pair
        if self.line.uncovered:
            return (
                f"your line for {pair.provider} covers {format_func(self.guarantee)} FUNC, and "
                f"{format_func(self.outstanding)} FUNC are outstanding: fund it "
                f"(`mesh gateway-stake fund-line {pair.gateway} {pair.provider} AMOUNT`)"
            )
        return (
            f"{self.line.unpaid} units are unpaid, more than the credit of {self.line.credit}: "
            "sign a voucher for the last receipt"
        )

    def hold(self, epoch: int, units: int) -> None:
        """A voucher is written down."""
        known = self.promises.get(epoch, Promise(0))
        self.promises[epoch] = Promise(max(known.vouched, units), known.safe, known.written_off)

    def concerns(self, slot: Slot, epoch: int) -> bool:
        """Whether a slot of the journal has a voucher that is not done with, or was not when we looked last."""
        done = bool(slot.written_off) or slot.safe_units >= slot.voucher_units
        return slot.voucher_units > 0 and not (done and slot.epoch < epoch - 1 and slot.epoch not in self.promises)

    def news(self, slot: Slot) -> bool:
        """Whether more of a slot's voucher is safe or given up than when we looked last."""
        known = self.promises.get(slot.epoch)
        return known is None or (slot.safe_units, bool(slot.written_off)) > (known.safe, known.written_off)

    def settled(self, slots: Iterable[Slot]) -> None:
        """What the journal knew of our vouchers a moment ago."""
        for slot in slots:
            known = self.promises.get(slot.epoch, Promise(0))
            vouched = max(slot.voucher_units, known.vouched)
            self.promises[slot.epoch] = Promise(vouched, min(slot.safe_units, vouched), bool(slot.written_off))

    def count(self, epoch: int) -> int:
        """Count what the line covers now; units that it covers beyond what it did before."""
        change = self.cover.update(self.promises, 0 if self.barred is not None else self.guarantee, self.tariffs)
        self.line.secure(change)
        self.outstanding = change.outstanding
        for past in [each for each in self.promises if each < epoch - 1]:
            promise = self.promises[past]
            if promise.written_off or promise.safe >= promise.vouched:
                del self.promises[past]
        self.tariffs = {each: tariff for each, tariff in self.tariffs.items() if each in self.promises}
        return change.gained


@dataclass(slots=True)
class Bill:
    """What one session at this hop is worth."""

    customer: Customer
    meter: SessionMeter
    blocks: int
    runs_prompt: bool = False
    """A part of the prompt has run, and the rest may."""
    kept: int = 0
    """What it still needs of the credit for that."""

    def skip(self, start: int) -> None:
        """What the session is fed begins at `start`: what comes before is there from an earlier one."""
        if not self.meter.processed:
            self.meter.cached = start

    def has_room(self, processed: int) -> bool:
        """Whether positions below `processed` may run now.

        A gateway signs for a prompt only when its first token is there. So a prompt begins when there is credit for all
        of it; one that is larger than the credit when none such runs. A gateway that never pays costs the credit, and
        one such prompt.
        """
        customer, fed = self.customer, self.meter.fed
        if self.runs_prompt:
            return customer.barred is None
        begins = not self.meter.processed
        units = self.price_of(max(processed, fed) if begins else processed)
        if customer.has_room(units):
            return True
        return begins and units > customer.line.credit and customer.large is None and customer.has_room(0)

    def begin(self, processed: int) -> int:
        """Units that running positions below `processed` adds; they count as running."""
        if not self.meter.processed and processed < self.meter.fed:
            self._keep(self.price_of(self.meter.fed))
        units = self.blocks * self.meter.advance(processed)
        self.customer.line.begin(units)
        if self.runs_prompt:
            done = min(units, self.kept)
            self.kept -= done
            self.customer.kept -= done
            if processed >= self.meter.fed:
                self._let_go()
        return units

    def _keep(self, units: int) -> None:
        self.runs_prompt = True
        if self.customer.has_room(units):
            self.kept = units
            self.customer.kept += units
        else:
            self.customer.large = self

    def _let_go(self) -> None:
        self.runs_prompt = False
        self.customer.kept -= self.kept
        self.kept = 0
        if self.customer.large is self:
            self.customer.large = None

    def price_of(self, processed: int) -> int:
        """Units that `begin` would add."""
        ahead = replace(self.meter, processed=max(self.meter.processed, processed))
        return self.blocks * (ahead.tokens - self.meter.tokens)

    def close(self, received: int) -> None:
        """The gateway knows of `received` positions; what ran beyond is not waited for, within bounds."""
        self._let_go()
        if not self.meter.processed:
            self.customer.replayed -= self.meter.replayed  # nothing was run again
        known = replace(self.meter, processed=min(received, self.meter.processed))
        rest = self.blocks * (self.meter.tokens - known.tokens)
        if rest > 0:
            self.customer.line.excuse(rest, FREE_POSITIONS * W_GENERATED * self.blocks)


def load_line(
    journal: PaymentJournal, pair: Pair, credit: int, identity: Identity
) -> tuple[CreditLine, Receipt | None]:
    """What an earlier process left: a line with the newest epoch, and its last receipt. Raises `StorageUnavailable`."""
    line = CreditLine(pair, credit)
    for slot in journal.slots("held", pair=pair):
        line.epoch = slot.epoch
        line.epochs = {slot.epoch: EpochUnits(slot.receipt_units, slot.voucher_units, base=slot.receipt_units)}
    # How much of that was excused is forgotten. Waiting for what the gateway never had would be for ever.
    line.doubtful = line.claimed
    last = journal.last_receipt("held", pair)
    if last is None:
        return line, None
    line.sequence, line.loaded, line.link = last.sequence, last.sequence, last.link
    endorsement = identity.sign(last.link)
    return line, Receipt(last.epoch, last.sequence, last.units, last.previous, last.signature, endorsement)
