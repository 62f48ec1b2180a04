"""Errors of the OpenZeppelin contracts that ours are built on."""

from __future__ import annotations

from chain.contract_errors.types import Address, Bytes32, Text, Uint8, Uint256
from chain.errors import ContractError


class EnforcedPause(ContractError):
    """The contract is paused."""


class ExpectedPause(ContractError):
    """The contract is not paused."""


class OwnableUnauthorizedAccount(ContractError):
    """{account} does not own the contract."""

    account: Address


class OwnableInvalidOwner(ContractError):
    """{owner} cannot own the contract."""

    owner: Address


class ReentrancyGuardReentrantCall(ContractError):
    """The call came back into the contract before it ended."""


class SafeCastOverflowedUintDowncast(ContractError):
    """{value} does not fit {bits} bits."""

    bits: Uint8
    value: Uint256


class SafeERC20FailedOperation(ContractError):
    """The token {token} refused a transfer."""

    token: Address


class ERC20InsufficientAllowance(ContractError):
    """{spender} may take {allowance} wei of FUNC and needs {needed}: approve it first."""

    spender: Address
    allowance: Uint256
    needed: Uint256


class ERC20InsufficientBalance(ContractError):
    """{sender} has {balance} wei of FUNC and needs {needed}."""

    sender: Address
    balance: Uint256
    needed: Uint256


class ERC20InvalidApprover(ContractError):
    """{approver} cannot approve."""

    approver: Address


class ERC20InvalidReceiver(ContractError):
    """{receiver} cannot receive FUNC."""

    receiver: Address


class ERC20InvalidSender(ContractError):
    """{sender} cannot send FUNC."""

    sender: Address


class ERC20InvalidSpender(ContractError):
    """{spender} cannot be approved."""

    spender: Address


class ERC2612ExpiredSignature(ContractError):
    """The permit was good until {deadline} (Unix time)."""

    deadline: Uint256


class ERC2612InvalidSigner(ContractError):
    """The permit is signed by {signer}, not by {owner}."""

    signer: Address
    owner: Address


class InvalidAccountNonce(ContractError):
    """The permit of {account} must have nonce {current_nonce}."""

    account: Address
    current_nonce: Uint256


class ECDSAInvalidSignature(ContractError):
    """The signature is not one."""


class ECDSAInvalidSignatureLength(ContractError):
    """A signature has 65 bytes, this one {length}."""

    length: Uint256


class ECDSAInvalidSignatureS(ContractError):
    """The signature is malleable (high s)."""

    s: Bytes32


class InvalidShortString(ContractError):
    """A name is empty or too long."""


class StringTooLong(ContractError):
    """A name is too long: {str!r}."""

    str: Text


class CheckpointUnorderedInsertion(ContractError):
    """A change would be written before an earlier one."""


class FailedDeployment(ContractError):
    """A staking pool could not be created."""
