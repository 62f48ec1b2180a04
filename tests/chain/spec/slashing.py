"""Service-level commitments with capped penalties, and the jails of providers and gateways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    EvidenceWindow,
    GatewayNotActive,
    InvalidSignature,
    LengthMismatch,
    NoSla,
    NotProviderOwner,
    ReportsNotSorted,
    SlaAlreadyPenalized,
    SlaKept,
    SlaRunning,
    TooFewReports,
    WrongReport,
)
from chain.primitives import ZERO_HASH, Address, Bytes32, checksummed, key_of, share_of
from chain.vouchers import Domain, SlaReport, digest, is_signed_by
from tests.chain.spec.base import Stoppable, Tx, call, check_bounds
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MAX_PENALTY_BPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Sla:
    """What a provider promises for epochs `from_epoch … until_epoch`; all zero: nothing."""

    uptime_bps: int = 0
    latency_ms: int = 0
    penalty_bps: int = 0
    from_epoch: int = 0
    until_epoch: int = 0


class Slashing(Stoppable):
    """A provider has two jails, by commitment and by dispute; the later end counts."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address, chain_id: int) -> None:
        super().__init__(ledger, address, owner)
        self.domain = Domain(chain_id, address)
        self._quorum = Cell(ledger.journal, 3)
        self._sla_jail_epochs = Cell(ledger.journal, 4)
        self._slas: Table[Bytes32, Sla] = Table(ledger.journal, Sla())
        self._penalized: Table[tuple[Bytes32, int], bool] = Table(ledger.journal, False)
        self._gateways: Table[Bytes32, int] = Table(ledger.journal, 0)
        self._by_sla: Table[Bytes32, int] = Table(ledger.journal, 0)
        self._by_dispute: Table[Bytes32, int] = Table(ledger.journal, 0)

    @property
    def quorum(self) -> int:
        return self._quorum.value

    @property
    def sla_jail_epochs(self) -> int:
        return self._sla_jail_epochs.value

    def sla(self, identifier: str) -> Sla:
        return self._slas[key_of(identifier)]

    def gateway_jailed_until(self, key: Bytes32) -> int:
        return self._gateways[key]

    def provider_jailed_until(self, key: Bytes32) -> int:
        return max(self._by_sla[key], self._by_dispute[key])

    def is_gateway_jailed(self, key: Bytes32, block: int) -> bool:
        return self.ledger.epochs.current_epoch(block) <= self._gateways[key]

    def is_provider_jailed(self, key: Bytes32, block: int) -> bool:
        return self.ledger.epochs.current_epoch(block) <= self.provider_jailed_until(key)

    def is_stake_held(self, key: Bytes32, block: int) -> bool:
        """The evidence window of a commitment, or a case, is open."""
        return self._sla_runs(key, block) or self.ledger.disputes.has_open_case(key)

    @call
    def commit_sla(
        self, tx: Tx, identifier: str, uptime_bps: int, latency_ms: int, penalty_bps: int, epochs: int
    ) -> None:
        self.not_paused()
        key = key_of(identifier)
        if self.ledger.providers.known(key).owner != tx.sender:
            raise NotProviderOwner(key, checksummed(tx.sender))
        check_bounds(uptime_bps, 1, 10_000)
        check_bounds(latency_ms, 1, 2**32 - 1)
        check_bounds(penalty_bps, 1, MAX_PENALTY_BPS)
        check_bounds(epochs, 1, 1000)
        if self._sla_runs(key, tx.block):
            raise SlaRunning(key, self._slas[key].until_epoch)
        current = self.epoch(tx)
        self._slas[key] = Sla(uptime_bps, latency_ms, penalty_bps, current + 1, current + epochs)

    @call
    def enforce_sla(
        self, tx: Tx, identifier: str, epoch: int, reports: Sequence[SlaReport], signatures: Sequence[bytes]
    ) -> None:
        """Penalises and jails when a strict majority of enough active gateways saw the commitment missed."""
        if len(reports) != len(signatures):
            raise LengthMismatch()
        key = key_of(identifier)
        model_id = self.ledger.providers.known(key).model_id
        promised, current = self._slas[key], self.epoch(tx)
        if not promised.from_epoch <= epoch <= promised.until_epoch:
            raise NoSla(key, epoch)
        if not epoch < current < epoch + self.ledger.epochs.epoch_reward_delay:
            raise EvidenceWindow(epoch, current)
        if self._penalized[key, epoch]:
            raise SlaAlreadyPenalized(key, epoch)
        if len(reports) < self.quorum:
            raise TooFewReports(len(reports), self.quorum)
        missed = self._count_missed(tx, key, epoch, promised, reports, signatures)
        if missed * 2 <= len(reports):
            raise SlaKept(missed, len(reports))
        self._penalized[key, epoch] = True
        self._by_sla[key] = max(self._by_sla[key], current + self.sla_jail_epochs)
        pool = self.ledger.router.pool(model_id)
        penalty = share_of(pool.stake_of_key(key).amount, promised.penalty_bps)
        self.ledger.token.destroy(self.address, pool.slash(key, penalty, self.address))

    @call
    def set_quorum(self, tx: Tx, quorum: int) -> None:
        self.only_owner(tx)
        check_bounds(quorum, 2, 64)
        self._quorum.value = quorum

    @call
    def set_sla_jail_epochs(self, tx: Tx, epochs: int) -> None:
        self.only_owner(tx)
        check_bounds(epochs, 1, 100)
        self._sla_jail_epochs.value = epochs

    # --- what settlement and disputes use ---

    def jail_gateway(self, key: Bytes32, until_epoch: int) -> None:
        self._gateways[key] = max(self._gateways[key], until_epoch)

    def jail_provider(self, key: Bytes32, until_epoch: int) -> None:
        self._by_dispute[key] = max(self._by_dispute[key], until_epoch)

    def release_provider(self, key: Bytes32) -> None:
        """Ends the jail that disputes imposed, not the other."""
        self._by_dispute[key] = 0

    def _count_missed(
        self,
        tx: Tx,
        key: Bytes32,
        epoch: int,
        promised: Sla,
        reports: Sequence[SlaReport],
        signatures: Sequence[bytes],
    ) -> int:
        missed, previous = 0, ZERO_HASH
        for index, (report, signature) in enumerate(zip(reports, signatures, strict=True)):
            if report.provider != key or report.epoch != epoch:
                raise WrongReport(index)
            if report.gateway <= previous:
                raise ReportsNotSorted()
            previous = report.gateway
            if not self.ledger.gateways.is_active_key(report.gateway, tx.block):
                raise GatewayNotActive(report.gateway)
            signer = self.ledger.gateways.signer_at(report.gateway, epoch)
            if not is_signed_by(digest(self.domain, report), signature, signer):
                raise InvalidSignature()
            missed += report.uptime_bps < promised.uptime_bps or report.latency_ms > promised.latency_ms
        return missed

    def _sla_runs(self, key: Bytes32, block: int) -> bool:
        until = self._slas[key].until_epoch
        delay = self.ledger.epochs.epoch_reward_delay
        return bool(until) and self.ledger.epochs.current_epoch(block) < until + delay
