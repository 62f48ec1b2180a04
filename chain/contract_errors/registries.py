"""Errors of the model, provider and gateway registries."""

from __future__ import annotations

from chain.contract_errors.types import Address, Bytes32, Text, Uint8, Uint256
from chain.errors import ContractError


class NotModelCreator(ContractError):
    """{caller} is not the creator of model {model_id}."""

    model_id: Uint256
    caller: Address


class ModelNameTaken(ContractError):
    """There is a model named {name!r} already."""

    name: Text


class ModelAlreadyEnabled(ContractError):
    """Model {model_id} is enabled already."""

    model_id: Uint256


class ModelAlreadyDisabled(ContractError):
    """Model {model_id} is disabled already."""

    model_id: Uint256


class ModelNotEnabled(ContractError):
    """Model {model_id} is disabled."""

    model_id: Uint256


class InvalidScore(ContractError):
    """A score is 1 to 5, not {score}."""

    score: Uint8


class NoVotingStake(ContractError):
    """The rater has no stake, so its rating would have no weight."""

    rater: Bytes32


class NotRated(ContractError):
    """This rater has not rated model {model_id}."""

    model_id: Uint256
    rater: Bytes32


class ProviderIdTaken(ContractError):
    """A provider with this id is registered already."""

    key: Bytes32


class NotProviderOwner(ContractError):
    """{caller} does not own this provider."""

    key: Bytes32
    caller: Address


class NoProvidersOwned(ContractError):
    """{owner} owns no providers."""

    owner: Address


class TooManyProviders(ContractError):
    """{owner} owns {max} providers already, the most there may be."""

    owner: Address
    max: Uint256


class AlreadyDeactivated(ContractError):
    """It is deactivated already."""

    key: Bytes32


class NotDeactivated(ContractError):
    """It is not deactivated."""

    key: Bytes32


class GatewayIdTaken(ContractError):
    """A gateway with this id is registered already."""

    key: Bytes32


class NotGatewayOwner(ContractError):
    """{caller} does not own this gateway."""

    key: Bytes32
    caller: Address


class SignerInUse(ContractError):
    """{signer} signs, or once signed, for another gateway."""

    signer: Address


class AutoWhitelistOff(ContractError):
    """Whitelisting is by hand now: a stake would be locked while its owner is not active."""
