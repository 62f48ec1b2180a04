"""One class per custom error of the contracts. Written by `python -m chain.contract_errors.stub`."""

from chain.contract_errors.decode import decode_revert as decode_revert
from chain.contract_errors.decode import revert_data as revert_data
from chain.errors import ContractError

class AccessControlBadConfirmation(ContractError): ...

class AccessControlUnauthorizedAccount(ContractError):
    account: str
    needed_role: bytes
    def __init__(self, account: str, needed_role: bytes) -> None: ...

class AlreadyChallenged(ContractError): ...

class AlreadyDeactivated(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class AlreadyFinalized(ContractError):
    model_id: int
    epoch: int
    def __init__(self, model_id: int, epoch: int) -> None: ...

class AlreadyPenalized(ContractError):
    gateway: bytes
    offence: int
    def __init__(self, gateway: bytes, offence: int) -> None: ...

class AlreadyProven(ContractError):
    provider: bytes
    gateway: bytes
    epoch: int
    def __init__(self, provider: bytes, gateway: bytes, epoch: int) -> None: ...

class AlreadyStaked(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class AlreadyVoted(ContractError):
    case_id: int
    verifier: str
    def __init__(self, case_id: int, verifier: str) -> None: ...

class AnswerWindowClosed(ContractError):
    challenge_id: int
    def __init__(self, challenge_id: int) -> None: ...

class AnswerWindowOpen(ContractError):
    challenge_id: int
    answer_by: int
    def __init__(self, challenge_id: int, answer_by: int) -> None: ...

class AutoWhitelistOff(ContractError): ...

class CapTooSmall(ContractError):
    cap: int
    scheduled: int
    def __init__(self, cap: int, scheduled: int) -> None: ...

class ChallengeNotOpen(ContractError):
    challenge_id: int
    def __init__(self, challenge_id: int) -> None: ...

class ChallengeWindowClosed(ContractError):
    epoch: int
    def __init__(self, epoch: int) -> None: ...

class ChallengeWindowNotOpen(ContractError):
    epoch: int
    def __init__(self, epoch: int) -> None: ...

class CheckpointExists(ContractError):
    gateway: bytes
    model_id: int
    epoch: int
    def __init__(self, gateway: bytes, model_id: int, epoch: int) -> None: ...

class CheckpointUnorderedInsertion(ContractError): ...

class DrawTooEarly(ContractError):
    draw_block: int
    def __init__(self, draw_block: int) -> None: ...

class ECDSAInvalidSignature(ContractError): ...

class ECDSAInvalidSignatureLength(ContractError):
    length: int
    def __init__(self, length: int) -> None: ...

class ECDSAInvalidSignatureS(ContractError):
    s: bytes
    def __init__(self, s: bytes) -> None: ...

class ERC20InsufficientAllowance(ContractError):
    spender: str
    allowance: int
    needed: int
    def __init__(self, spender: str, allowance: int, needed: int) -> None: ...

class ERC20InsufficientBalance(ContractError):
    sender: str
    balance: int
    needed: int
    def __init__(self, sender: str, balance: int, needed: int) -> None: ...

class ERC20InvalidApprover(ContractError):
    approver: str
    def __init__(self, approver: str) -> None: ...

class ERC20InvalidReceiver(ContractError):
    receiver: str
    def __init__(self, receiver: str) -> None: ...

class ERC20InvalidSender(ContractError):
    sender: str
    def __init__(self, sender: str) -> None: ...

class ERC20InvalidSpender(ContractError):
    spender: str
    def __init__(self, spender: str) -> None: ...

class ERC2612ExpiredSignature(ContractError):
    deadline: int
    def __init__(self, deadline: int) -> None: ...

class ERC2612InvalidSigner(ContractError):
    signer: str
    owner: str
    def __init__(self, signer: str, owner: str) -> None: ...

class EmptyDeposit(ContractError):
    payer: str
    def __init__(self, payer: str) -> None: ...

class EnforcedPause(ContractError): ...

class EpochNotReady(ContractError):
    epoch: int
    claimable_to: int
    def __init__(self, epoch: int, claimable_to: int) -> None: ...

class EpochPassed(ContractError):
    epoch: int
    current: int
    def __init__(self, epoch: int, current: int) -> None: ...

class EvidenceWindow(ContractError):
    epoch: int
    current: int
    def __init__(self, epoch: int, current: int) -> None: ...

class ExpectedPause(ContractError): ...
class FailedCall(ContractError): ...
class FailedDeployment(ContractError): ...

class GatewayIdTaken(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class GatewayInDebt(ContractError):
    key: bytes
    debt: int
    def __init__(self, key: bytes, debt: int) -> None: ...

class GatewayJailed(ContractError):
    key: bytes
    until_epoch: int
    def __init__(self, key: bytes, until_epoch: int) -> None: ...

class GatewayNotWoundDown(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class GatewayOverdrawn(ContractError):
    key: bytes
    wanted: int
    effective: int
    def __init__(self, key: bytes, wanted: int, effective: int) -> None: ...

class GatewayWindingDown(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class InsufficientBalance(ContractError):
    wanted: int
    available: int
    def __init__(self, wanted: int, available: int) -> None: ...

class InsufficientCover(ContractError):
    wanted: int
    available: int
    def __init__(self, wanted: int, available: int) -> None: ...

class InsufficientStake(ContractError):
    wanted: int
    spare: int
    def __init__(self, wanted: int, spare: int) -> None: ...

class InvalidAccountNonce(ContractError):
    account: str
    current_nonce: int
    def __init__(self, account: str, current_nonce: int) -> None: ...

class InvalidEpochRange(ContractError):
    from_epoch: int
    to_epoch: int
    def __init__(self, from_epoch: int, to_epoch: int) -> None: ...

class InvalidId(ContractError):
    length: int
    def __init__(self, length: int) -> None: ...

class InvalidProof(ContractError): ...

class InvalidScore(ContractError):
    score: int
    def __init__(self, score: int) -> None: ...

class InvalidShortString(ContractError): ...
class InvalidSignature(ContractError): ...
class LengthMismatch(ContractError): ...

class LineHeld(ContractError):
    key: bytes
    provider: bytes
    def __init__(self, key: bytes, provider: bytes) -> None: ...

class LinesOpen(ContractError):
    key: bytes
    reserved: int
    def __init__(self, key: bytes, reserved: int) -> None: ...

class MetadataTooLong(ContractError):
    length: int
    def __init__(self, length: int) -> None: ...

class ModelAlreadyDisabled(ContractError):
    model_id: int
    def __init__(self, model_id: int) -> None: ...

class ModelAlreadyEnabled(ContractError):
    model_id: int
    def __init__(self, model_id: int) -> None: ...

class ModelNameTaken(ContractError):
    name: str
    def __init__(self, name: str) -> None: ...

class ModelNotEnabled(ContractError):
    model_id: int
    def __init__(self, model_id: int) -> None: ...

class NoCheckpoint(ContractError):
    gateway: bytes
    model_id: int
    epoch: int
    def __init__(self, gateway: bytes, model_id: int, epoch: int) -> None: ...

class NoProvidersOwned(ContractError):
    owner: str
    def __init__(self, owner: str) -> None: ...

class NoSla(ContractError):
    key: bytes
    epoch: int
    def __init__(self, key: bytes, epoch: int) -> None: ...

class NoVotingStake(ContractError):
    rater: bytes
    def __init__(self, rater: bytes) -> None: ...

class NotDeactivated(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class NotEquivocation(ContractError): ...

class NotGatewayOwner(ContractError):
    key: bytes
    caller: str
    def __init__(self, key: bytes, caller: str) -> None: ...

class NotGatewaySigner(ContractError):
    caller: str
    def __init__(self, caller: str) -> None: ...

class NotMinter(ContractError):
    caller: str
    def __init__(self, caller: str) -> None: ...

class NotModelCreator(ContractError):
    model_id: int
    caller: str
    def __init__(self, model_id: int, caller: str) -> None: ...

class NotOnPanel(ContractError):
    case_id: int
    verifier: str
    def __init__(self, case_id: int, verifier: str) -> None: ...

class NotProviderOwner(ContractError):
    key: bytes
    caller: str
    def __init__(self, key: bytes, caller: str) -> None: ...

class NotRated(ContractError):
    model_id: int
    rater: bytes
    def __init__(self, model_id: int, rater: bytes) -> None: ...

class NotServed(ContractError):
    gateway: bytes
    def __init__(self, gateway: bytes) -> None: ...

class NotStaked(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class NotVerifier(ContractError):
    caller: str
    def __init__(self, caller: str) -> None: ...

class NothingDue(ContractError):
    payer: str
    gateway: bytes
    def __init__(self, payer: str, gateway: bytes) -> None: ...

class NothingMissing(ContractError): ...

class NothingThawing(ContractError):
    account: str
    def __init__(self, account: str) -> None: ...

class NothingToClaim(ContractError): ...

class OutOfBounds(ContractError):
    value: int
    min: int
    max: int
    def __init__(self, value: int, min: int, max: int) -> None: ...

class OwnableInvalidOwner(ContractError):
    owner: str
    def __init__(self, owner: str) -> None: ...

class OwnableUnauthorizedAccount(ContractError):
    account: str
    def __init__(self, account: str) -> None: ...

class PostingWindowClosed(ContractError):
    epoch: int
    current: int
    def __init__(self, epoch: int, current: int) -> None: ...

class ProviderHasCase(ContractError):
    provider: bytes
    def __init__(self, provider: bytes) -> None: ...

class ProviderIdTaken(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class ReentrancyGuardReentrantCall(ContractError): ...
class ReportsNotSorted(ContractError): ...

class RewardsNotReady(ContractError):
    to_epoch: int
    claimable_to: int
    def __init__(self, to_epoch: int, claimable_to: int) -> None: ...

class SafeCastOverflowedUintDowncast(ContractError):
    bits: int
    value: int
    def __init__(self, bits: int, value: int) -> None: ...

class SafeERC20FailedOperation(ContractError):
    token: str
    def __init__(self, token: str) -> None: ...

class ServedIncomplete(ContractError):
    sum: int
    units: int
    def __init__(self, sum: int, units: int) -> None: ...

class SignerInUse(ContractError):
    signer: str
    def __init__(self, signer: str) -> None: ...

class SlaAlreadyPenalized(ContractError):
    key: bytes
    epoch: int
    def __init__(self, key: bytes, epoch: int) -> None: ...

class SlaKept(ContractError):
    missed: int
    all: int
    def __init__(self, missed: int, all: int) -> None: ...

class SlaRunning(ContractError):
    key: bytes
    until_epoch: int
    def __init__(self, key: bytes, until_epoch: int) -> None: ...

class StakeLocked(ContractError):
    key: bytes
    unlock_epoch: int
    def __init__(self, key: bytes, unlock_epoch: int) -> None: ...

class StakeUnderDispute(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class StillThawing(ContractError):
    thaw_end: int
    def __init__(self, thaw_end: int) -> None: ...

class StringTooLong(ContractError):
    text: str
    def __init__(self, text: str) -> None: ...

class SupplyCapExceeded(ContractError):
    wanted: int
    cap: int
    def __init__(self, wanted: int, cap: int) -> None: ...

class TimelockInsufficientDelay(ContractError):
    delay: int
    min_delay: int
    def __init__(self, delay: int, min_delay: int) -> None: ...

class TimelockInvalidOperationLength(ContractError):
    targets: int
    payloads: int
    values: int
    def __init__(self, targets: int, payloads: int, values: int) -> None: ...

class TimelockUnauthorizedCaller(ContractError):
    caller: str
    def __init__(self, caller: str) -> None: ...

class TimelockUnexecutedPredecessor(ContractError):
    predecessor_id: bytes
    def __init__(self, predecessor_id: bytes) -> None: ...

class TimelockUnexpectedOperationState(ContractError):
    operation_id: bytes
    expected_states: bytes
    def __init__(self, operation_id: bytes, expected_states: bytes) -> None: ...

class TooFewReports(ContractError):
    gateways: int
    quorum: int
    def __init__(self, gateways: int, quorum: int) -> None: ...

class TooFewVerifiers(ContractError):
    have: int
    need: int
    def __init__(self, have: int, need: int) -> None: ...

class TooManyProviders(ContractError):
    owner: str
    max: int
    def __init__(self, owner: str, max: int) -> None: ...

class TooManyVerifiers(ContractError): ...

class Unauthorized(ContractError):
    caller: str
    def __init__(self, caller: str) -> None: ...

class UnknownCase(ContractError):
    case_id: int
    def __init__(self, case_id: int) -> None: ...

class UnknownChallenge(ContractError):
    challenge_id: int
    def __init__(self, challenge_id: int) -> None: ...

class UnknownGateway(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class UnknownModel(ContractError):
    model_id: int
    def __init__(self, model_id: int) -> None: ...

class UnknownProvider(ContractError):
    key: bytes
    def __init__(self, key: bytes) -> None: ...

class UnknownSigner(ContractError):
    payer: str
    signer: str
    def __init__(self, payer: str, signer: str) -> None: ...

class VerifierUnchanged(ContractError):
    verifier: str
    def __init__(self, verifier: str) -> None: ...

class VotingClosed(ContractError):
    case_id: int
    def __init__(self, case_id: int) -> None: ...

class VotingOpen(ContractError):
    case_id: int
    def __init__(self, case_id: int) -> None: ...

class WindDownNotOver(ContractError):
    key: bytes
    wind_down_end: int
    def __init__(self, key: bytes, wind_down_end: int) -> None: ...

class Wiring(ContractError): ...

class WrongFees(ContractError):
    fees: int
    expected: int
    def __init__(self, fees: int, expected: int) -> None: ...

class WrongModel(ContractError):
    provider: bytes
    model_id: int
    def __init__(self, provider: bytes, model_id: int) -> None: ...

class WrongPool(ContractError):
    key: bytes
    model_id: int
    def __init__(self, key: bytes, model_id: int) -> None: ...

class WrongReport(ContractError):
    index: int
    def __init__(self, index: int) -> None: ...

class WrongStatus(ContractError):
    case_id: int
    status: int
    def __init__(self, case_id: int, status: int) -> None: ...

class ZeroAddress(ContractError): ...
class ZeroAmount(ContractError): ...
class ZeroRoot(ContractError): ...
