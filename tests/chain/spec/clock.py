"""The block-based clock: which epoch a block belongs to, and the delays that are counted in epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain.primitives import MAX_UINT64, Address, ceil_div
from tests.chain.spec.base import Part, Tx, call, check_bounds
from tests.chain.spec.journal import Cell

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MIN_LENGTH: Final = 2
MAX_LENGTH: Final = 100_000
MIN_REWARD_DELAY: Final = 4
MAX_EPOCHS: Final = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """From block `start` on, which begins `epoch`, epochs last `length` blocks."""

    epoch: int
    start: int
    length: int


class EpochController(Part):
    """Epoch 1 begins with the block that deploys it. No view before that block is asked for."""

    def __init__(
        self,
        ledger: Ledger,
        address: Address,
        owner: Address,
        start: int,
        length: int,
        locked: int,
        delay: int,
        wind_down: int,
    ) -> None:
        super().__init__(ledger, address, owner)
        check_bounds(length, MIN_LENGTH, MAX_LENGTH)
        check_bounds(locked, 1, MAX_EPOCHS)
        check_bounds(wind_down, MIN_REWARD_DELAY, MAX_EPOCHS)
        check_bounds(delay, MIN_REWARD_DELAY, wind_down)
        self._segments: Cell[tuple[Segment, ...]] = Cell(ledger.journal, (Segment(1, start, length),))
        self._min_locked = Cell(ledger.journal, locked)
        self._reward_delay = Cell(ledger.journal, delay)
        self._wind_down = Cell(ledger.journal, wind_down)

    @property
    def min_epochs_locked(self) -> int:
        return self._min_locked.value

    @property
    def epoch_reward_delay(self) -> int:
        return self._reward_delay.value

    @property
    def wind_down_delay(self) -> int:
        return self._wind_down.value

    def current_epoch(self, block: int) -> int:
        running = self._running(block)
        return running.epoch + (block - running.start) // running.length

    def epoch_length(self, block: int) -> int:
        """Length in blocks of the epoch that `block` belongs to."""
        return self._running(block).length

    def epoch_start_block(self, epoch: int) -> int:
        """First block of an epoch, as the lengths stand now."""
        check_bounds(epoch, 1, MAX_UINT64)
        segment = next(s for s in reversed(self._segments.value) if s.epoch <= epoch)
        return segment.start + (epoch - segment.epoch) * segment.length

    def claimable_epoch(self, block: int) -> int:
        return max(self.current_epoch(block) - self.epoch_reward_delay, 0)

    @call
    def set_epoch_length(self, tx: Tx, length: int) -> None:
        self.only_owner(tx)
        running = self.epoch_length(tx.block)
        check_bounds(length, max(MIN_LENGTH, ceil_div(running, 2)), min(MAX_LENGTH, 2 * running))
        begun = tuple(s for s in self._segments.value if s.start <= tx.block)
        last = begun[-1]
        following = self.current_epoch(tx.block) + 1
        start = last.start + (following - last.epoch) * last.length
        self._segments.value = (*begun, Segment(following, start, length))

    @call
    def set_min_epochs_locked(self, tx: Tx, epochs: int) -> None:
        self.only_owner(tx)
        check_bounds(epochs, 1, min(MAX_EPOCHS, 2 * self.min_epochs_locked))
        self._min_locked.value = epochs

    @call
    def set_epoch_reward_delay(self, tx: Tx, epochs: int) -> None:
        self.only_owner(tx)
        check_bounds(epochs, MIN_REWARD_DELAY, min(self.wind_down_delay, 2 * self.epoch_reward_delay))
        self._reward_delay.value = epochs

    @call
    def set_wind_down_delay(self, tx: Tx, epochs: int) -> None:
        self.only_owner(tx)
        check_bounds(epochs, self.epoch_reward_delay, min(MAX_EPOCHS, 2 * self.wind_down_delay))
        self._wind_down.value = epochs

    def _running(self, block: int) -> Segment:
        return next(s for s in reversed(self._segments.value) if s.start <= block)
