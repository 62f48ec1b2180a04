"""Wrong computation: drawn verifiers jail first; a slash needs a bonded, capped dispute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    AlreadyVoted,
    DrawTooEarly,
    NothingToClaim,
    NotOnPanel,
    NotVerifier,
    ProviderHasCase,
    TooFewVerifiers,
    TooManyVerifiers,
    UnknownCase,
    VerifierUnchanged,
    VotingClosed,
    VotingOpen,
    WrongStatus,
    ZeroAddress,
)
from chain.primitives import ZERO_ADDRESS, Address, Bytes32, checksummed, keccak256, key_of, share_of, word
from tests.chain.spec.base import Part, Tx, call, check_bounds
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

PANEL: Final = 3
MAX_VERIFIERS: Final = 64
DRAW_AFTER: Final = 2
"""Blocks from the opening of a case to the one whose hash draws: nobody who opens it can know that hash."""
HASHES_KEPT: Final = 256
"""For so many blocks the chain knows a block's hash."""
BONDER_PART: Final = 10
"""The bonder gets one part in so many of what is slashed."""


class CaseStatus(IntEnum):
    NONE = 0
    VOTING = 1
    ACQUITTED = 2
    JAILED = 3
    DISPUTED = 4
    SLASHED = 5
    REJECTED = 6
    DRAWING = 7


@dataclass(frozen=True, slots=True)
class DisputeParameters:
    bond: int = 10**20
    cap_bps: int = 2000
    jail_epochs: int = 16
    voting_epochs: int = 4


@dataclass(frozen=True, slots=True)
class Case:
    """`deadline`: last epoch in which a draw, the running vote or, once jailed, a dispute is waited for.

    `panel`: empty until the hash of block `draw_block` has drawn it.
    """

    provider: Bytes32
    model_id: int
    epoch: int
    evidence_hash: Bytes32
    status: CaseStatus
    deadline: int
    panel: tuple[Address, ...]
    guilty: int = 0
    innocent: int = 0
    bonder: Address = ZERO_ADDRESS
    bond: int = 0
    draw_block: int = 0


class Disputes(Part):
    def __init__(self, ledger: Ledger, address: Address, owner: Address) -> None:
        super().__init__(ledger, address, owner)
        self._parameters = Cell(ledger.journal, DisputeParameters())
        self._verifiers: Cell[tuple[Address, ...]] = Cell(ledger.journal, ())
        self._cases: Cell[tuple[Case, ...]] = Cell(ledger.journal, ())
        self._voted: Table[tuple[int, CaseStatus, Address], bool] = Table(ledger.journal, False)
        self._open: Table[Bytes32, bool] = Table(ledger.journal, False)
        self._payments: Table[Address, int] = Table(ledger.journal, 0)

    @property
    def parameters(self) -> DisputeParameters:
        return self._parameters.value

    @property
    def verifiers(self) -> tuple[Address, ...]:
        return self._verifiers.value

    @property
    def cases(self) -> tuple[Case, ...]:
        return self._cases.value

    def case_of(self, case_id: int) -> Case:
        if case_id >= len(self.cases):
            raise UnknownCase(case_id)
        return self.cases[case_id]

    def has_open_case(self, provider: Bytes32) -> bool:
        return self._open[provider]

    def payments_of(self, account: Address) -> int:
        return self._payments[account]

    def owed(self) -> int:
        """All that this contract must hold: payments and the bonds of running disputes."""
        bonds = sum(case.bond for case in self.cases if case.status is CaseStatus.DISPUTED)
        return bonds + sum(payment for _, payment in self._payments.items())

    @call
    def set_verifier(self, tx: Tx, verifier: Address, enabled: bool) -> None:
        """Removing a verifier puts the last of the list in his place."""
        self.only_owner(tx)
        if verifier == ZERO_ADDRESS:
            raise ZeroAddress()
        listed = list(self.verifiers)
        if (verifier in listed) == enabled:
            raise VerifierUnchanged(checksummed(verifier))
        if enabled:
            listed.append(verifier)
        else:
            listed[listed.index(verifier)] = listed[-1]
            listed.pop()
        if len(listed) > MAX_VERIFIERS:
            raise TooManyVerifiers()
        self._verifiers.value = tuple(listed)

    @call
    def open_case(self, tx: Tx, provider_id: str, epoch: int, evidence_hash: Bytes32) -> int:
        """A verifier accuses. Returns the case's number."""
        if tx.sender not in self.verifiers:
            raise NotVerifier(checksummed(tx.sender))
        if len(self.verifiers) < PANEL:
            raise TooFewVerifiers(len(self.verifiers), PANEL)
        key = key_of(provider_id)
        provider = self.ledger.providers.known(key)
        if self._open[key]:
            raise ProviderHasCase(key)
        number = len(self.cases)
        case = Case(
            provider=key,
            model_id=provider.model_id,
            epoch=epoch,
            evidence_hash=evidence_hash,
            status=CaseStatus.DRAWING,
            deadline=self.epoch(tx) + self.parameters.voting_epochs,
            panel=(),
            draw_block=tx.block + DRAW_AFTER,
        )
        self._open[key] = True
        self._cases.value = (*self.cases, case)
        return number

    @call
    def draw_panel(self, tx: Tx, case_id: int) -> None:
        """Three verifiers by the hash of a later block, or a new block to wait for if that hash is forgotten."""
        case = self.case_of(case_id)
        if case.status is not CaseStatus.DRAWING:
            raise WrongStatus(case_id, case.status)
        if tx.block <= case.draw_block:
            raise DrawTooEarly(case.draw_block)
        if tx.block > case.draw_block + HASHES_KEPT:
            self._put(case_id, replace(case, draw_block=tx.block + DRAW_AFTER))
            return
        if len(self.verifiers) < PANEL:
            raise TooFewVerifiers(len(self.verifiers), PANEL)
        panel = drawn(self.verifiers, self.ledger.block_hash(case.draw_block), case_id)
        deadline = self.epoch(tx) + self.parameters.voting_epochs
        self._put(case_id, replace(case, status=CaseStatus.VOTING, panel=panel, deadline=deadline))

    @call
    def vote(self, tx: Tx, case_id: int, guilty: bool) -> None:
        case = self.case_of(case_id)
        if case.status not in (CaseStatus.VOTING, CaseStatus.DISPUTED):
            raise WrongStatus(case_id, case.status)
        current = self.epoch(tx)
        if current > case.deadline:
            raise VotingClosed(case_id)
        if case.status is CaseStatus.VOTING:
            if tx.sender not in case.panel:
                raise NotOnPanel(case_id, checksummed(tx.sender))
        elif tx.sender not in self.verifiers:
            raise NotVerifier(checksummed(tx.sender))
        # Once in each round: who sat on the panel may vote again in the dispute.
        if self._voted[case_id, case.status, tx.sender]:
            raise AlreadyVoted(case_id, checksummed(tx.sender))
        self._voted[case_id, case.status, tx.sender] = True
        voting = case.status is CaseStatus.VOTING
        case = replace(case, guilty=case.guilty + guilty, innocent=case.innocent + (not guilty))
        self._put(case_id, case)
        if voting and case.guilty * 2 > PANEL:
            deadline = current + self.parameters.voting_epochs
            self._put(case_id, replace(case, status=CaseStatus.JAILED, deadline=deadline))
            self.ledger.slashing.jail_provider(case.provider, current + self.parameters.jail_epochs)
        elif voting and case.innocent * 2 > PANEL:
            self._end(case_id, case, CaseStatus.ACQUITTED)

    @call
    def dispute(self, tx: Tx, case_id: int) -> None:
        """Asks, with a bond, that a jailed provider be slashed."""
        case = self.case_of(case_id)
        if case.status is not CaseStatus.JAILED:
            raise WrongStatus(case_id, case.status)
        current, bond = self.epoch(tx), self.parameters.bond
        if current > case.deadline:
            raise VotingClosed(case_id)
        disputed = replace(
            case,
            status=CaseStatus.DISPUTED,
            deadline=current + self.parameters.voting_epochs,
            guilty=0,
            innocent=0,
            bonder=tx.sender,
            bond=bond,
        )
        self._put(case_id, disputed)
        self.ledger.token.pull(self.address, tx.sender, self.address, bond)

    @call
    def close(self, tx: Tx, case_id: int) -> None:
        """Closes a case whose deadline has passed."""
        case = self.case_of(case_id)
        waiting = (CaseStatus.DRAWING, CaseStatus.VOTING)
        if case.status not in (*waiting, CaseStatus.JAILED, CaseStatus.DISPUTED):
            raise WrongStatus(case_id, case.status)
        if self.epoch(tx) <= case.deadline:
            raise VotingOpen(case_id)
        if case.status in waiting:
            self._end(case_id, case, CaseStatus.ACQUITTED)
        elif case.status is CaseStatus.JAILED:
            self._end(case_id, case, CaseStatus.REJECTED)
        elif case.guilty > case.innocent and case.guilty + case.innocent >= PANEL:
            self._end(case_id, case, CaseStatus.SLASHED)
            pool = self.ledger.router.pool(case.model_id)
            wanted = share_of(pool.stake_of_key(case.provider).amount, self.parameters.cap_bps)
            penalty = pool.slash(case.provider, wanted, self.address)
            reward = penalty // BONDER_PART
            self._payments[case.bonder] += case.bond + reward
            self.ledger.token.destroy(self.address, penalty - reward)
        else:
            self._end(case_id, case, CaseStatus.REJECTED)
            self._payments[self.ledger.providers.known(case.provider).owner] += case.bond
            self.ledger.slashing.release_provider(case.provider)

    @call
    def withdraw_payments(self, tx: Tx) -> int:
        amount = self._payments[tx.sender]
        if not amount:
            raise NothingToClaim()
        self._payments[tx.sender] = 0
        self.ledger.token.move(self.address, tx.sender, amount)
        return amount

    @call
    def set_parameters(self, tx: Tx, bond: int, cap_bps: int, jail_epochs: int, voting_epochs: int) -> None:
        self.only_owner(tx)
        check_bounds(bond, 1, 10**24)
        check_bounds(cap_bps, 1, 5000)
        check_bounds(jail_epochs, 1, 1000)
        check_bounds(voting_epochs, 1, 100)
        self._parameters.value = DisputeParameters(bond, cap_bps, jail_epochs, voting_epochs)

    def _put(self, case_id: int, case: Case) -> None:
        self._cases.value = (*self.cases[:case_id], case, *self.cases[case_id + 1 :])

    def _end(self, case_id: int, case: Case, status: CaseStatus) -> None:
        self._put(case_id, replace(case, status=status))
        self._open[case.provider] = False


def drawn(verifiers: tuple[Address, ...], block_hash: Bytes32, case_id: int) -> tuple[Address, ...]:
    """The first three places of a Fisher–Yates shuffle seeded by a block's hash and the case's number."""
    places = list(verifiers)
    seed = keccak256(block_hash + word(case_id))
    for i in range(PANEL):
        j = i + int.from_bytes(keccak256(seed + word(i))) % (len(places) - i)
        places[i], places[j] = places[j], places[i]
    return tuple(places[:PANEL])
