"""Errors of service-level commitments and of disputes about wrong computation."""

from __future__ import annotations

from chain.contract_errors.types import Address, Bytes32, Uint8, Uint64, Uint256
from chain.errors import ContractError


class SlaRunning(ContractError):
    """A commitment runs through epoch {until_epoch}, and its evidence window after it."""

    key: Bytes32
    until_epoch: Uint64


class NoSla(ContractError):
    """There is no commitment for epoch {epoch}."""

    key: Bytes32
    epoch: Uint64


class EvidenceWindow(ContractError):
    """Evidence about epoch {epoch} is not accepted in epoch {current}."""

    epoch: Uint64
    current: Uint64


class SlaAlreadyPenalized(ContractError):
    """The commitment that holds in epoch {epoch} has been penalised."""

    solidity_name = "AlreadyPenalized"
    key: Bytes32
    epoch: Uint64


class TooFewReports(ContractError):
    """{reports} reports are below the quorum of {quorum}."""

    reports: Uint256
    quorum: Uint256


class ReportsNotSorted(ContractError):
    """The gateways are not in ascending order."""


class WrongReport(ContractError):
    """Report {index} is about another provider or epoch, out of order, or by a gateway that is not named."""

    index: Uint256


class SlaKept(ContractError):
    """Of {everything} (stake, or units of work) only {missed} say that the commitment was missed."""

    missed: Uint256
    everything: Uint256


class NotVerifier(ContractError):
    """{caller} is not a verifier."""

    caller: Address


class TooFewVerifiers(ContractError):
    """There are {have} verifiers, {need} are needed."""

    have: Uint256
    need: Uint256


class TooManyVerifiers(ContractError):
    """There are as many verifiers as there may be."""


class VerifierUnchanged(ContractError):
    """{verifier} is so already."""

    verifier: Address


class ProviderHasCase(ContractError):
    """A case against this provider is open."""

    provider: Bytes32


class UnknownCase(ContractError):
    """There is no case {case_id}."""

    case_id: Uint256


class WrongStatus(ContractError):
    """Case {case_id} is in status {status}."""

    case_id: Uint256
    status: Uint8


class VotingClosed(ContractError):
    """The vote or the time to dispute in case {case_id} is over."""

    case_id: Uint256


class VotingOpen(ContractError):
    """The deadline of case {case_id} has not passed."""

    case_id: Uint256


class NotOnPanel(ContractError):
    """{verifier} is not on the panel of case {case_id}."""

    case_id: Uint256
    verifier: Address


class AlreadyVoted(ContractError):
    """{verifier} has voted in case {case_id}."""

    case_id: Uint256
    verifier: Address


class DrawTooEarly(ContractError):
    """The panel is drawn by the hash of block {draw_block}, once that has passed."""

    draw_block: Uint256


class NotServed(ContractError):
    """The provider has proven no work for this gateway in the epoch."""

    gateway: Bytes32


class ServedIncomplete(ContractError):
    """The gateways named were served {sum} units of the {units} that the provider has proven."""

    sum: Uint256
    units: Uint256
