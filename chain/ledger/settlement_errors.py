"""The errors of settlement, challenges, service levels and disputes; the others are in `errors.py`."""

from __future__ import annotations

from chain.ledger.errors import ContractError
from chain.primitives import Address, Bytes32

# --- settlement ---


class NotGatewaySigner(ContractError):
    caller: Address


class PostingWindowClosed(ContractError):
    epoch: int
    current: int


class GatewayNotBonded(ContractError):
    gateway: Bytes32


class CheckpointExists(ContractError):
    gateway: Bytes32
    model_id: int
    epoch: int


class NoCheckpoint(ContractError):
    gateway: Bytes32
    model_id: int
    epoch: int


class ZeroRoot(ContractError):
    pass


class WrongFees(ContractError):
    fees: int
    expected: int


class InsufficientCover(ContractError):
    wanted: int
    available: int


class EpochNotReady(ContractError):
    epoch: int
    claimable_to: int


class AlreadyFinalized(ContractError):
    model_id: int
    epoch: int


class ChallengesOpen(ContractError):
    model_id: int
    epoch: int


class InvalidProof(ContractError):
    pass


class AlreadyProven(ContractError):
    provider: Bytes32
    gateway: Bytes32
    epoch: int


class LeafBarred(ContractError):
    provider: Bytes32
    gateway: Bytes32
    epoch: int


class UnitsExceedTotal(ContractError):
    units: int
    left: int


class ChallengeWindowClosed(ContractError):
    epoch: int


class ChallengeWindowNotOpen(ContractError):
    epoch: int


class WrongModel(ContractError):
    provider: Bytes32
    model_id: int


class NothingMissing(ContractError):
    pass


class SumIsRight(ContractError):
    pass


class LeavesNotSorted(ContractError):
    pass


class NotEquivocation(ContractError):
    pass


class NotOverdrawn(ContractError):
    owed: int
    cover: int


class AlreadyChallenged(ContractError):
    pass


class AlreadyPenalized(ContractError):
    """`what`: the offence in a slot (Settlement), or the epoch of a commitment (Slashing)."""

    key: Bytes32
    what: int


class UnknownChallenge(ContractError):
    challenge_id: int


class ChallengeNotOpen(ContractError):
    challenge_id: int


class AnswerWindowClosed(ContractError):
    challenge_id: int


class AnswerWindowOpen(ContractError):
    challenge_id: int
    answer_by: int


# --- service levels and disputes ---


class SlaRunning(ContractError):
    key: Bytes32
    until_epoch: int


class NoSla(ContractError):
    key: Bytes32
    epoch: int


class EvidenceWindow(ContractError):
    epoch: int
    current: int


class TooFewReports(ContractError):
    reports: int
    quorum: int


class ReportsNotSorted(ContractError):
    pass


class WrongReport(ContractError):
    index: int


class GatewayNotActive(ContractError):
    gateway: Bytes32


class SlaKept(ContractError):
    missed: int
    reports: int


class NotVerifier(ContractError):
    caller: Address


class TooFewVerifiers(ContractError):
    have: int
    need: int


class TooManyVerifiers(ContractError):
    pass


class VerifierUnchanged(ContractError):
    verifier: Address


class ProviderHasCase(ContractError):
    provider: Bytes32


class UnknownCase(ContractError):
    case_id: int


class WrongStatus(ContractError):
    case_id: int
    status: int


class VotingClosed(ContractError):
    case_id: int


class VotingOpen(ContractError):
    case_id: int


class NotOnPanel(ContractError):
    case_id: int
    verifier: Address


class AlreadyVoted(ContractError):
    case_id: int
    verifier: Address
