"""Errors that several contracts raise, and those of the clock, the token and emission."""

from __future__ import annotations

from chain.contract_errors.types import Address, Bytes32, Uint64, Uint256
from chain.errors import ContractError


class Wiring(ContractError):
    """The contracts have not been wired to each other, or already are."""


class Unauthorized(ContractError):
    """{caller} may not do this."""

    caller: Address


class ZeroAmount(ContractError):
    """The amount must be positive."""


class ZeroAddress(ContractError):
    """The address must not be zero."""


class InvalidId(ContractError):
    """An id has 1 to 64 bytes, this one {length}."""

    length: Uint256


class MetadataTooLong(ContractError):
    """Metadata has at most 1024 bytes, this {length}."""

    length: Uint256


class OutOfBounds(ContractError):
    """{value} is not within {min} … {max}."""

    value: Uint256
    min: Uint256
    max: Uint256


class InvalidEpochRange(ContractError):
    """Epochs {from_epoch} … {to_epoch} are no range: from 1, ascending, at most 512 epochs."""

    from_epoch: Uint64
    to_epoch: Uint64


class RewardsNotReady(ContractError):
    """Epoch {to_epoch} is not claimable yet: rewards are ready through epoch {claimable_to}."""

    to_epoch: Uint64
    claimable_to: Uint64


class NothingToClaim(ContractError):
    """There is nothing to claim in this range."""


class UnknownModel(ContractError):
    """There is no model {model_id}."""

    model_id: Uint256


class UnknownProvider(ContractError):
    """No provider is registered under this id (key {key})."""

    key: Bytes32


class UnknownGateway(ContractError):
    """No gateway is registered under this id (key {key})."""

    key: Bytes32


class InvalidSignature(ContractError):
    """The signature is not by the signer that this message needs."""


class LengthMismatch(ContractError):
    """The lists have different lengths."""


class NotMinter(ContractError):
    """{caller} is not the minter."""

    caller: Address


class SupplyCapExceeded(ContractError):
    """The supply would be {wanted} wei, above its cap of {cap}."""

    wanted: Uint256
    cap: Uint256


class EpochPassed(ContractError):
    """Epoch {epoch} has passed: it is epoch {current}."""

    epoch: Uint64
    current: Uint64


class CapTooSmall(ContractError):
    """The cap of {cap} wei is below the {scheduled} wei that the schedule may emit."""

    cap: Uint256
    scheduled: Uint256
