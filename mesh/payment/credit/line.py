"""What a gateway owes a provider, as the provider keeps it (pure, integers only).

The provider counts the work it has done, says so in receipts, and holds vouchers for it; it works on only while what is
unpaid stays within the credit that it gives. Receipts and vouchers are cumulative per epoch, so a repeated or lost
message changes nothing. The gateway's side is `mesh.payment.credit.vouching`. Source of the idea: cumulative vouchers
of payment channels (The Graph's TAP, Livepeer's tickets).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mesh.errors import ProtocolViolation
from mesh.payment.credit.cover import Change
from mesh.payment.credit.units import units_at

GENESIS: Final = bytes(32)
"""What the first receipt of a pair follows."""
PARDON_CREDITS: Final = 8
"""Credits that a gateway pays to have one pardon forgotten."""
KEPT_EPOCHS: Final = 2
KEPT_LINKS: Final = 256
"""Receipts that we recognise as our own of this run: no gateway that merely missed some is further behind."""
_LINK: Final = b"mesh receipt v1\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """Who works for whom on what."""

    gateway: str
    provider: str
    model_id: int


@dataclass(frozen=True, slots=True)
class ReceiptClaim:
    """«In `epoch` we have done `units` for you in all»; `link` hashes it together with the one before."""

    pair: Pair
    epoch: int
    sequence: int
    units: int
    previous: bytes

    @property
    def link(self) -> bytes:
        """32 bytes: sha256 over the previous link and this claim."""
        pair = self.pair
        text = f"{pair.gateway}\n{pair.provider}\n{pair.model_id}\n{self.epoch}\n{self.sequence}\n{self.units}"
        return hashlib.sha256(_LINK + self.previous + text.encode()).digest()


@dataclass(slots=True)
class EpochUnits:
    """Cumulative units of one epoch: claimed by receipts, and covered by vouchers."""

    receipted: int = 0
    vouched: int = 0
    carried: int = 0
    """Claimed in this epoch, not vouched for, and claimed anew in a later one."""
    anew: int = 0
    """Units of the later epoch that those were claimed as."""
    base: int = 0
    """What the journal knew when we started: of the units vouched for (gateway), or claimed (provider)."""


@dataclass(slots=True)
class CreditLine:
    """The provider's side. `credit` is how many units may be unpaid before it stops working.

    So a gateway that never signs again costs at most `credit` units, once more for each time that we start again or
    that it is pardoned; and one that cuts sessions short on purpose half of that an epoch, and what every session may
    leave unpaid. Vouchers beyond what the gateway guarantees leave those units unpaid, and are never pardoned.
    """

    pair: Pair
    credit: int
    epoch: int = 0
    open: int = 0
    """Done, and in no receipt yet."""
    running: int = 0
    """Being computed."""
    epochs: dict[int, EpochUnits] = field(default_factory=dict)
    sequence: int = 0
    link: bytes = GENESIS
    excused: int = 0
    """Of what is unpaid, this much is not waited for: its sessions ended before the gateway had the tokens."""
    doubtful: int = 0
    """Claimed before we started again, or before a pardon: still claimed, but not waited for. Of the first we forgot
    how much was excused; neither need be the gateway's fault, which signs for nothing that it never had."""
    forgiven: int = 0
    """Excused in this epoch, beyond what every session may leave unpaid."""
    uncovered: int = 0
    """Units that vouchers are held for and that the gateway's line does not cover: they count as unpaid."""
    lost: int = 0
    """Units whose vouchers were not covered and came to nothing."""
    paid: int = 0
    """Units that vouchers are held for which the line covers."""
    pardons: int = 0
    """How often it was given up that what was unpaid would come."""
    loaded: int = 0
    """The sequence number that the journal knew when we started."""
    made: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT_LINKS))
    """Links of the receipts since then."""

    @property
    def claimed(self) -> int:
        """Done, and covered by no voucher."""
        return self.open + sum(counts.receipted - counts.vouched for counts in self.epochs.values())

    @property
    def awaited(self) -> int:
        """Done, and a voucher is waited for."""
        return max(0, self.claimed + self.lost - self.excused - self.doubtful)

    @property
    def unpaid(self) -> int:
        """Done, and not paid for: no voucher has come, or none that the line covers."""
        return self.awaited + self.uncovered

    def has_room(self, units: int) -> bool:
        """Whether `units` more may be begun."""
        return self.unpaid + self.running + units <= self.credit

    def begin(self, units: int) -> None:
        self.running += units

    def finish(self, begun: int, done: int) -> None:
        """Work that was begun has ended; `done` of it counts (less when it failed)."""
        self.running -= begun
        self.open += done

    def turn(self, epoch: int, prices: Mapping[int, int] | None = None) -> None:
        """The chain's epoch is `epoch` now: what was done before and not vouched for is claimed anew.

        `prices` (of a unit, by epoch) say what it is worth now: where the price has risen, fewer units cost the same.
        """
        if epoch <= self.epoch:
            return
        before, self.epoch, self.forgiven = self.epoch, epoch, 0
        old, new = 1, 1
        if prices is not None and before in prices and epoch in prices:
            old, new = prices[before], prices[epoch]
        for past in [each for each in self.epochs if each < epoch]:
            counts = self.epochs[past]
            unpaid = counts.receipted - counts.vouched
            self.open += unpaid
            counts.receipted = counts.vouched
            counts.carried += unpaid
            counts.anew = units_at(counts.anew + unpaid, old, new)
            if past < epoch - KEPT_EPOCHS:
                del self.epochs[past]
        self.open, self.excused = units_at(max(0, self.open - self.excused), old, new), 0

    def claim(self) -> ReceiptClaim | None:
        """The next receipt, or None when there is nothing new to say."""
        if not self.open:
            return None
        counts = self.epochs.setdefault(self.epoch, EpochUnits())
        counts.receipted += self.open
        self.open = 0
        self.sequence += 1
        claim = ReceiptClaim(self.pair, self.epoch, self.sequence, counts.receipted, self.link)
        self.link = claim.link
        self.made.append(claim.link)
        return claim

    def recall(self, epoch: int, sequence: int, units: int, link: bytes) -> bool:
        """The gateway shows a receipt that we signed: where it is newer than our books, go on from it.

        They came back from a backup, then, or are lost. What was claimed since, as if it were the first, is claimed
        anew on top. What the receipt has beyond our books is claimed, but not waited for. False where nothing is new.
        """
        if link in self.made or sequence <= self.loaded:
            return False
        if sequence <= self.sequence and len(self.made) == KEPT_LINKS:
            return False  # it may be one of ours that we do not remember: the gateway's books are the older ones
        for counts in self.epochs.values():
            fresh = max(0, counts.receipted - max(counts.base, counts.vouched))
            counts.receipted -= fresh
            self.open += fresh
        counts = self.epochs.setdefault(epoch, EpochUnits())
        gained = max(0, units - max(counts.base, counts.vouched))
        if epoch < self.epoch:  # as `turn` does with what is left of an epoch
            counts.carried, counts.anew = counts.carried + gained, counts.anew + gained
            self.open += gained
        else:
            counts.receipted = max(units, counts.receipted)
        counts.base = max(units, counts.base)
        self.doubtful += gained
        self.sequence = self.loaded = max(self.sequence, sequence)
        self.link = link
        self.made.clear()
        return True

    def admit(self, epoch: int, units: int) -> None:
        """A voucher came for work that our books have forgotten: `check` is to take it."""
        counts = self.epochs.setdefault(epoch, EpochUnits())
        missing = max(0, units - counts.receipted - counts.carried)
        if epoch < self.epoch:
            counts.carried += missing
        else:
            counts.receipted += missing
            counts.base += missing

    def check(self, epoch: int, units: int) -> int:
        """New units that a voucher is worth; 0 for an old one. Raises `ProtocolViolation` for one nobody asked for.

        What was claimed in its epoch and has been claimed anew since may still be vouched for there; what was done
        later may not: it may cost more.
        """
        counts = self.epochs.get(epoch)
        if counts is None:
            raise ProtocolViolation(f"a voucher for epoch {epoch}, in which nothing was claimed")
        claimed = counts.receipted + counts.carried
        if units > claimed:
            raise ProtocolViolation(f"a voucher for {units} units, of which {claimed} were claimed")
        return max(0, units - counts.vouched)

    def accept(self, epoch: int, units: int) -> None:
        """Count a voucher that `check` passed and that is safely written down."""
        counts = self.epochs[epoch]
        gained = units - counts.vouched
        if gained <= 0:
            return
        carried = max(0, units - counts.receipted)
        counts.vouched = units
        counts.receipted = max(counts.receipted, units)
        late = counts.anew * carried // counts.carried if counts.carried else 0
        counts.carried, counts.anew = counts.carried - carried, counts.anew - late
        taken = min(late, self.open)
        self.open -= taken
        self.excused += late - taken  # claimed anew already: that claim asks for too much by this
        self.doubtful = min(self.doubtful, max(0, self.claimed + self.lost - self.excused))
        self.uncovered += gained  # until `secure` says how much of it the line covers

    def secure(self, change: Change) -> None:
        """Count what the gateway's line covers of the vouchers."""
        self.paid += change.gained
        self.uncovered = change.uncovered
        self.lost += change.lost

    def pardon_after(self, pause: float) -> float:
        """Seconds that a gateway which has used up its credit waits for another chance: at first `pause`, each time
        twice as long. Who pays much and loses a session now and then hardly waits; who never pays gets next to nothing.
        """
        forgotten = self.paid // max(1, PARDON_CREDITS * self.credit)
        return pause * 2.0 ** min(max(0, self.pardons - forgotten), 20)

    def pardon(self) -> None:
        """Wait no longer for vouchers that are missing now. What is vouched for and not covered stays unpaid."""
        self.doubtful += self.awaited
        self.pardons += 1

    def excuse(self, units: int, allowance: int) -> int:
        """Do not wait for work whose session ended early; what was excused. `allowance` of it is free of the bound."""
        bounded = max(0, units - allowance)
        given = min(units, allowance) + min(bounded, max(0, self.credit // 2 - self.forgiven))
        given = min(given, self.awaited)
        self.forgiven += max(0, given - allowance)
        self.excused += given
        return given
