"""Errors of provider and gateway staking and of the escrow."""

from __future__ import annotations

from chain.contract_errors.types import Address, Bytes32, Uint64, Uint256
from chain.errors import ContractError


class WrongPool(ContractError):
    """This pool is for model {model_id}, the provider serves another."""

    key: Bytes32
    model_id: Uint256


class AlreadyStaked(ContractError):
    """The provider has staked all that its model asks."""

    key: Bytes32


class NotStaked(ContractError):
    """There is no stake."""

    key: Bytes32


class StakeLocked(ContractError):
    """The stake is locked until epoch {unlock_epoch}."""

    key: Bytes32
    unlock_epoch: Uint64


class StakeUnderDispute(ContractError):
    """The stake is held while a commitment or a dispute is open."""

    key: Bytes32


class GatewayWindingDown(ContractError):
    """The gateway is winding down."""

    key: Bytes32


class GatewayNotWoundDown(ContractError):
    """The gateway has not been wound down."""

    key: Bytes32


class WindDownNotOver(ContractError):
    """The wind-down lasts until epoch {wind_down_end}."""

    key: Bytes32
    wind_down_end: Uint64


class GatewayJailed(ContractError):
    """The gateway is jailed through epoch {until_epoch}."""

    key: Bytes32
    until_epoch: Uint64


class GatewayOverdrawn(ContractError):
    """The gateway's effective stake of {effective} wei does not cover {wanted} wei."""

    key: Bytes32
    wanted: Uint256
    effective: Uint256


class NothingDue(ContractError):
    """The voucher has been redeemed in full."""

    payer: Address
    gateway: Bytes32


class EmptyDeposit(ContractError):
    """{payer} has no deposit to pay from; the voucher stays good."""

    payer: Address


class InsufficientBalance(ContractError):
    """{wanted} wei wanted, {available} wei available."""

    wanted: Uint256
    available: Uint256


class NothingThawing(ContractError):
    """{payer} has nothing thawing."""

    payer: Address


class StillThawing(ContractError):
    """The deposit thaws until epoch {thaw_end}."""

    thaw_end: Uint64


class UnknownSigner(ContractError):
    """{signer} may not sign for {payer}."""

    payer: Address
    signer: Address


class InsufficientStake(ContractError):
    """{wanted} wei wanted, {spare} wei of the stake are spare."""

    wanted: Uint256
    spare: Uint256


class LineHeld(ContractError):
    """All that thaws of this line is held by a challenge."""

    gateway: Bytes32
    provider: Bytes32


class LinesOpen(ContractError):
    """{reserved} wei of the stake are guaranteed to providers: release the lines first."""

    key: Bytes32
    reserved: Uint256


class GatewayInDebt(ContractError):
    """The gateway owes {debt} wei for work that its checkpoints left out."""

    key: Bytes32
    debt: Uint256
