"""Service-level commitments with capped penalties, and the jails of providers and gateways."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    EvidenceWindow,
    InvalidSignature,
    LengthMismatch,
    NoSla,
    NotProviderOwner,
    NotServed,
    ReportsNotSorted,
    ServedIncomplete,
    SlaAlreadyPenalized,
    SlaKept,
    SlaRunning,
    TooFewReports,
    WrongReport,
)
from chain.primitives import Address, Bytes32, checksummed, key_of, share_of
from chain.vouchers import ContributionReceipt, Domain, SlaReport, digest, is_signed_by
from tests.chain.spec.base import Stoppable, Tx, call, check_bounds
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MAX_PENALTY_BPS: Final = 1000
ENOUGH_REQUESTS: Final = 5
"""A report of fewer requests says nothing against the provider."""


@dataclass(frozen=True, slots=True)
class Sla:
    """What a provider promises for epochs `from_epoch … until_epoch`; all zero: nothing."""

    uptime_bps: int = 0
    latency_ms: int = 0
    penalty_bps: int = 0
    from_epoch: int = 0
    until_epoch: int = 0

    def missed_by(self, report: SlaReport) -> bool:
        """Whether the report shows it broken."""
        kept = report.uptime_bps >= self.uptime_bps and report.latency_ms <= self.latency_ms
        return report.requests >= ENOUGH_REQUESTS and not kept


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A gateway's report with its signature, and a receipt: units, and the provider's signature over them."""

    report: SlaReport
    signature: bytes
    units: int
    receipt: bytes


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
        self,
        tx: Tx,
        identifier: str,
        epoch: int,
        gateways: Sequence[Bytes32],
        reports: Sequence[SlaReport],
        signatures: Sequence[bytes],
        receipt_units: Sequence[int],
        receipt_signatures: Sequence[bytes],
    ) -> None:
        """Penalises, jails and ends a commitment that a majority of those served, by stake and by work, saw missed.

        Beside each report, the units of a receipt by which the provider acknowledged work for that gateway.
        """
        if not len(reports) == len(signatures) == len(receipt_units) == len(receipt_signatures):
            raise LengthMismatch()
        key = key_of(identifier)
        model_id = self.ledger.providers.known(key).model_id
        promised, current = self._slas[key], self.epoch(tx)
        if not promised.until_epoch or not promised.from_epoch <= epoch <= promised.until_epoch:
            raise NoSla(key, epoch)
        delay = self.ledger.epochs.epoch_reward_delay
        if not epoch + delay <= current <= epoch + 2 * delay:
            raise EvidenceWindow(epoch, current)
        if self._penalized[key, promised.from_epoch]:
            raise SlaAlreadyPenalized(key, epoch)
        pool = self.ledger.router.pool(model_id)
        self._require_served(key, epoch, gateways, pool.contribution(identifier, epoch).units)
        acknowledged = [
            Acknowledged(*each) for each in zip(reports, signatures, receipt_units, receipt_signatures, strict=True)
        ]
        missing = self._missing(key, model_id, epoch, promised, gateways, acknowledged)
        stake_of = self.ledger.gateway_staking.effective_stake_of_key
        self._require_majority(sum(map(stake_of, missing)), sum(map(stake_of, gateways)))
        # Work that the provider did not acknowledge says nothing against it: anybody can post a leaf.
        work = sum(min(units, self._served(key, epoch, [gateway])) for gateway, units in missing.items())
        self._require_majority(work, self._served(key, epoch, gateways))
        self._penalized[key, promised.from_epoch] = True
        self._by_sla[key] = max(self._by_sla[key], current + self.sla_jail_epochs)
        self._slas[key] = replace(promised, until_epoch=min(promised.until_epoch, current))
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

    def _require_served(self, key: Bytes32, epoch: int, gateways: Sequence[Bytes32], units: int) -> None:
        """All gateways that the provider has proven work for, and enough of them."""
        previous = None
        for gateway in gateways:
            if previous is not None and gateway <= previous:
                raise ReportsNotSorted()
            previous = gateway
            if not self._served(key, epoch, [gateway]):
                raise NotServed(gateway)
        served = self._served(key, epoch, gateways)
        if served != units:
            raise ServedIncomplete(served, units)
        if len(gateways) < self.quorum:
            raise TooFewReports(len(gateways), self.quorum)

    def _missing(
        self,
        key: Bytes32,
        model_id: int,
        epoch: int,
        promised: Sla,
        gateways: Collection[Bytes32],
        acknowledged: Sequence[Acknowledged],
    ) -> dict[Bytes32, int]:
        """The gateways whose reports, all of them valid, show the commitment missed, with their receipts' units."""
        missing = {}
        previous = None
        for index, each in enumerate(acknowledged):
            report = each.report
            ascending = previous is None or report.gateway > previous
            if not ascending or report.gateway not in gateways or (report.provider, report.epoch) != (key, epoch):
                raise WrongReport(index)
            previous = report.gateway
            signer = self.ledger.gateways.signer_at(report.gateway, epoch)
            if not is_signed_by(digest(self.domain, report), each.signature, signer):
                raise InvalidSignature()
            receipt = ContributionReceipt(report.gateway, key, model_id, epoch, each.units)
            worker, said = self.ledger.providers.signer_at(key, epoch), digest(self.ledger.settlement.domain, receipt)
            if not each.units or not is_signed_by(said, each.receipt, worker):
                raise InvalidSignature()
            if promised.missed_by(report):
                missing[report.gateway] = each.units
        return missing

    def _served(self, key: Bytes32, epoch: int, gateways: Collection[Bytes32]) -> int:
        """Units of work proven for these gateways."""
        return sum(self.ledger.settlement.proven_units(gateway, key, epoch) for gateway in gateways)

    def _require_majority(self, missed: int, everything: int) -> None:
        if 2 * missed <= everything:
            raise SlaKept(missed, everything)

    def _sla_runs(self, key: Bytes32, block: int) -> bool:
        """Through the end of its last epoch's evidence window."""
        until = self._slas[key].until_epoch
        delay = self.ledger.epochs.epoch_reward_delay
        return bool(until) and self.ledger.epochs.current_epoch(block) <= until + 2 * delay
