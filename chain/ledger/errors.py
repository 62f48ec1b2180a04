"""Every custom error of the contracts as a frozen Python type of the same name, with the same arguments in order.

    ContractError
    ├── what OpenZeppelin raises (ownership, pausing, ERC-20, narrowing)
    └── what our interfaces declare: here, and, for settlement and disputes, in `settlement_errors.py`

A name that two interfaces declare with different last arguments (`AlreadyPenalized`) is one type here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import dataclass_transform

from chain.primitives import Address, Bytes32


@dataclass_transform(eq_default=True, frozen_default=True)
class ContractError(Exception):
    """A call that reverts: nothing has changed. Subclasses are value objects; their fields cannot be set twice."""

    def __init_subclass__(cls) -> None:
        dataclass(eq=True, unsafe_hash=True)(cls)

    def __setattr__(self, name: str, value: object) -> None:
        # The interpreter and contextlib set dunder attributes (__traceback__, __notes__); all else is set once.
        if not name.startswith("__") and name in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.{name} is frozen")
        super().__setattr__(name, value)

    def values(self) -> tuple[object, ...]:
        """The arguments in the order of the Solidity declaration."""
        return tuple(getattr(self, name) for name in getattr(self, "__match_args__", ()))

    def __str__(self) -> str:
        shown = (f"0x{value.hex()}" if isinstance(value, bytes) else repr(value) for value in self.values())
        return f"{type(self).__name__}({', '.join(shown)})"


# --- OpenZeppelin ---


class OwnableUnauthorizedAccount(ContractError):
    account: Address


class EnforcedPause(ContractError):
    pass


class ExpectedPause(ContractError):
    pass


class ERC20InsufficientAllowance(ContractError):
    spender: Address
    allowance: int
    needed: int


class ERC20InsufficientBalance(ContractError):
    sender: Address
    balance: int
    needed: int


class ERC20InvalidReceiver(ContractError):
    receiver: Address


class ERC20InvalidSpender(ContractError):
    spender: Address


class SafeCastOverflowedUintDowncast(ContractError):
    bits: int
    value: int


# --- common to several contracts ---


class Unauthorized(ContractError):
    caller: Address


class ZeroAmount(ContractError):
    pass


class ZeroAddress(ContractError):
    pass


class InvalidId(ContractError):
    length: int


class MetadataTooLong(ContractError):
    length: int


class OutOfBounds(ContractError):
    value: int
    min: int
    max: int


class InvalidEpochRange(ContractError):
    from_: int
    to: int


class RewardsNotReady(ContractError):
    to: int
    claimable_to: int


class NothingToClaim(ContractError):
    pass


class UnknownModel(ContractError):
    model_id: int


class UnknownProvider(ContractError):
    key: Bytes32


class UnknownGateway(ContractError):
    key: Bytes32


class InvalidSignature(ContractError):
    pass


class LengthMismatch(ContractError):
    pass


# --- token ---


class NotMinter(ContractError):
    caller: Address


class MinterAlreadySet(ContractError):
    pass


class SupplyCapExceeded(ContractError):
    wanted: int
    cap: int


# --- models ---


class NotModelCreator(ContractError):
    model_id: int
    caller: Address


class ModelNameTaken(ContractError):
    name: str


class ModelAlreadyEnabled(ContractError):
    model_id: int


class ModelAlreadyDisabled(ContractError):
    model_id: int


class InvalidScore(ContractError):
    score: int


class NoVotingStake(ContractError):
    rater: Bytes32


class NotRated(ContractError):
    model_id: int
    rater: Bytes32


# --- providers and their pools ---


class ProviderIdTaken(ContractError):
    key: Bytes32


class NotProviderOwner(ContractError):
    key: Bytes32
    caller: Address


class ModelNotEnabled(ContractError):
    model_id: int


class AlreadyDeactivated(ContractError):
    key: Bytes32


class NotDeactivated(ContractError):
    key: Bytes32


class NoProvidersOwned(ContractError):
    owner: Address


class TooManyProviders(ContractError):
    owner: Address
    max: int


class WrongPool(ContractError):
    key: Bytes32
    model_id: int


class AlreadyStaked(ContractError):
    key: Bytes32


class NotStaked(ContractError):
    key: Bytes32


class StakeLocked(ContractError):
    key: Bytes32
    unlock_epoch: int


class StakeUnderDispute(ContractError):
    key: Bytes32


# --- gateways ---


class GatewayIdTaken(ContractError):
    key: Bytes32


class NotGatewayOwner(ContractError):
    key: Bytes32
    caller: Address


class SignerInUse(ContractError):
    signer: Address


class GatewayWindingDown(ContractError):
    key: Bytes32


class GatewayNotWoundDown(ContractError):
    key: Bytes32


class WindDownNotOver(ContractError):
    key: Bytes32
    wind_down_end: int


class GatewayJailed(ContractError):
    key: Bytes32
    until_epoch: int


class GatewayOverdrawn(ContractError):
    key: Bytes32
    wanted: int
    effective: int


# --- escrow ---


class NothingDue(ContractError):
    payer: Address
    gateway: Bytes32


class EmptyDeposit(ContractError):
    payer: Address


class InsufficientBalance(ContractError):
    wanted: int
    available: int


class NothingThawing(ContractError):
    payer: Address


class StillThawing(ContractError):
    thaw_end: int


class UnknownSigner(ContractError):
    payer: Address
    signer: Address


class GatewayStillStaked(ContractError):
    gateway: Bytes32


# --- reward pool ---


class EpochPassed(ContractError):
    epoch: int
    current: int


class CapTooSmall(ContractError):
    cap: int
    scheduled: int
