"""Errors of checkpoints, proofs and challenges."""

from __future__ import annotations

from chain.contract_errors.types import Address, Bytes32, Uint8, Uint64, Uint256
from chain.errors import ContractError


class NotGatewaySigner(ContractError):
    """{caller} signs for no gateway now."""

    caller: Address


class PostingWindowClosed(ContractError):
    """A checkpoint of epoch {epoch} is posted in the epoch after it; now it is epoch {current}."""

    epoch: Uint64
    current: Uint64


class CheckpointExists(ContractError):
    """The gateway has used its slot for model {model_id} in epoch {epoch}."""

    gateway: Bytes32
    model_id: Uint256
    epoch: Uint64


class NoCheckpoint(ContractError):
    """There is no valid checkpoint of this gateway for model {model_id} in epoch {epoch}."""

    gateway: Bytes32
    model_id: Uint256
    epoch: Uint64


class ZeroRoot(ContractError):
    """The root must not be zero."""


class WrongFees(ContractError):
    """The fees are {expected} wei, not {fees}."""

    fees: Uint256
    expected: Uint256


class InsufficientCover(ContractError):
    """{wanted} wei wanted, credit and stake cover {available} wei."""

    wanted: Uint256
    available: Uint256


class EpochNotReady(ContractError):
    """Epoch {epoch} is not ready: epochs are claimable through {claimable_to}."""

    epoch: Uint64
    claimable_to: Uint64


class AlreadyFinalized(ContractError):
    """Epoch {epoch} of model {model_id} is finalised already."""

    model_id: Uint256
    epoch: Uint64


class InvalidProof(ContractError):
    """The proof does not show what it should."""


class AlreadyProven(ContractError):
    """This contribution to epoch {epoch} has been proven."""

    provider: Bytes32
    gateway: Bytes32
    epoch: Uint64


class ChallengeWindowClosed(ContractError):
    """Epoch {epoch} can no longer be challenged."""

    epoch: Uint64


class ChallengeWindowNotOpen(ContractError):
    """Epoch {epoch} cannot be challenged yet."""

    epoch: Uint64


class WrongModel(ContractError):
    """The provider does not serve model {model_id}."""

    provider: Bytes32
    model_id: Uint256


class NothingMissing(ContractError):
    """The checkpoint owes this provider nothing more."""


class NotEquivocation(ContractError):
    """The two commitments do not contradict each other."""


class AlreadyChallenged(ContractError):
    """This has been challenged already."""


class AlreadyPenalized(ContractError):
    """This offence in this slot has been punished."""

    gateway: Bytes32
    offence: Uint8


class UnknownChallenge(ContractError):
    """There is no challenge {challenge_id}."""

    challenge_id: Uint256


class ChallengeNotOpen(ContractError):
    """Challenge {challenge_id} is not open, or of another kind."""

    challenge_id: Uint256


class AnswerWindowClosed(ContractError):
    """It is too late to answer challenge {challenge_id}."""

    challenge_id: Uint256


class AnswerWindowOpen(ContractError):
    """Challenge {challenge_id} may be answered through epoch {answer_by}."""

    challenge_id: Uint256
    answer_by: Uint64
