"""Which of the vouchers that a provider holds are guaranteed by the gateway's line for it (pure, integers only).

A voucher is a promise; only the line, the part of the gateway's stake that nobody but this provider can take, makes it
money. So a voucher counts as payment as far as everything that is outstanding with it stays within the line. What is
beyond is kept and waits: it counts when the line grows, or when earlier work is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.payment.credit.units import ModelPrice


@dataclass(frozen=True, slots=True)
class Promise:
    """The voucher of one epoch, in cumulative units."""

    vouched: int
    safe: int = 0
    """Of these (never more), units that cannot be lost any more: they are in a posted checkpoint, or compensated."""
    written_off: bool = False
    """The rest was given up: nothing will come for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an update of the cover found."""

    gained: int
    """Units that count as paid from now on."""
    uncovered: int
    """Units that vouchers are held for and that do not count."""
    lost: int
    """Units that did not count and have been given up since the last update."""
    outstanding: int
    """Wei that all vouchers are worth that are not safe."""


@dataclass(slots=True)
class Cover:
    """Units that count as paid, by epoch. What once counted goes on counting: it can still be enforced."""

    counted: dict[int, int] = field(default_factory=dict)

    def update(self, promises: Mapping[int, Promise], guarantee: int, tariffs: Mapping[int, ModelPrice]) -> Change:
        """Count what `guarantee` wei cover of `promises`, the oldest first. A promise without a tariff waits."""
        gained = lost = uncovered = outstanding = 0
        before, self.counted = self.counted, {}
        open_ = []
        for epoch, promise in sorted(promises.items()):
            counted = max(before.get(epoch, 0), promise.safe)
            gained += counted - before.get(epoch, 0)
            if promise.written_off:
                lost += promise.vouched - counted
                counted = promise.vouched
            else:
                open_.append((epoch, promise, tariffs.get(epoch)))
            self.counted[epoch] = counted
        spare = guarantee - sum(
            tariff.fee(self.counted[epoch] - promise.safe) for epoch, promise, tariff in open_ if tariff is not None
        )
        for epoch, promise, tariff in open_:
            counted = self.counted[epoch]
            if tariff is not None:
                outstanding += tariff.fee(promise.vouched - promise.safe)
                paid_for = tariff.fee(counted - promise.safe)
                more = promise.safe + tariff.units(paid_for + spare, promise.vouched - promise.safe) - counted
                if spare >= 0 and more > 0:
                    spare -= tariff.fee(counted + more - promise.safe) - paid_for
                    gained += more
                    self.counted[epoch] = counted = counted + more
            uncovered += promise.vouched - counted
        return Change(gained, uncovered, lost, outstanding)
