"""What all parts of the ledger share: the calling transaction, atomic calls, ownership, pausing, common checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from chain.contract_errors import (
    EnforcedPause,
    ExpectedPause,
    InvalidEpochRange,
    InvalidId,
    InvalidSignature,
    MetadataTooLong,
    OutOfBounds,
    OwnableUnauthorizedAccount,
    SafeCastOverflowedUintDowncast,
)
from chain.primitives import MAX_UINT128, ZERO_ADDRESS, Address, Bytes32, checksummed
from chain.vouchers import Domain, SignerConsent, digest, is_signed_by
from tests.chain.spec.journal import Cell

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MAX_ID_BYTES: Final = 64
MAX_METADATA_BYTES: Final = 1024
MAX_RANGE: Final = 512


@dataclass(frozen=True, slots=True)
class Tx:
    """Who calls, and in which block."""

    sender: Address
    block: int


class Part:
    """One contract of the ledger: an address that holds tokens, and an owner."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address) -> None:
        self.ledger = ledger
        self.address = address
        self._owner = Cell(ledger.journal, owner)
        self._pending_owner = Cell(ledger.journal, ZERO_ADDRESS)

    @property
    def owner(self) -> Address:
        return self._owner.value

    @property
    def pending_owner(self) -> Address:
        return self._pending_owner.value

    def epoch(self, tx: Tx) -> int:
        """The current epoch, `cur` in the rules."""
        return self.ledger.epochs.current_epoch(tx.block)

    def transfer_ownership(self, tx: Tx, new_owner: Address) -> None:
        self.only_owner(tx)
        self._pending_owner.value = new_owner

    def accept_ownership(self, tx: Tx) -> None:
        if tx.sender != self.pending_owner:
            raise OwnableUnauthorizedAccount(checksummed(tx.sender))
        self._owner.value, self._pending_owner.value = tx.sender, ZERO_ADDRESS

    def only_owner(self, tx: Tx) -> None:
        if tx.sender != self.owner:
            raise OwnableUnauthorizedAccount(checksummed(tx.sender))


class Stoppable(Part):
    """A contract whose owner can stop what takes new money or commitments; the rest goes on."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address) -> None:
        super().__init__(ledger, address, owner)
        self._paused = Cell(ledger.journal, False)

    @property
    def paused(self) -> bool:
        return self._paused.value

    def pause(self, tx: Tx) -> None:
        self.only_owner(tx)
        self.not_paused()
        self._paused.value = True

    def unpause(self, tx: Tx) -> None:
        self.only_owner(tx)
        if not self.paused:
            raise ExpectedPause()
        self._paused.value = False

    def not_paused(self) -> None:
        if self.paused:
            raise EnforcedPause()


P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Part)


def call(method: Callable[Concatenate[C, Tx, P], R]) -> Callable[Concatenate[C, Tx, P], R]:
    """Marks what anyone may call: it happens as a whole or not at all."""

    @wraps(method)
    def atomic(self: C, tx: Tx, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.ledger.journal.atomic():
            return method(self, tx, *args, **kwargs)

    return atomic


def check_bounds(value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OutOfBounds(value, low, high)


def check_id(identifier: str) -> None:
    length = len(identifier.encode())
    if not 0 < length <= MAX_ID_BYTES:
        raise InvalidId(length)


def check_metadata(metadata: str) -> None:
    length = len(metadata.encode())
    if length > MAX_METADATA_BYTES:
        raise MetadataTooLong(length)


def check_range(first: int, last: int) -> None:
    """Epochs `first … last`, both included: 1 ≤ first ≤ last, at most 512 of them."""
    if first == 0 or first > last or last - first >= MAX_RANGE:
        raise InvalidEpochRange(first, last)


def require_consent(domain: Domain, key: Bytes32, owner: Address, signer: Address, consent: bytes) -> None:
    """A key that is not the owner's own must have agreed to sign for it."""
    if signer != owner and not is_signed_by(digest(domain, SignerConsent(key, owner, signer)), consent, signer):
        raise InvalidSignature()


def uint128(value: int) -> int:
    if value > MAX_UINT128:
        raise SafeCastOverflowedUintDowncast(128, value)
    return value


def at_epoch(changes: tuple[tuple[int, R], ...], epoch: int, default: R) -> R:
    """The value of the latest change at or before `epoch`, from changes in order of epoch."""
    for since, value in reversed(changes):
        if since <= epoch:
            return value
    return default


def with_change(changes: tuple[tuple[int, R], ...], since: int, value: R) -> tuple[tuple[int, R], ...]:
    """The changes with one more at the end; a change of the same epoch is replaced."""
    if changes and changes[-1][0] == since:
        changes = changes[:-1]
    return (*changes, (since, value))
