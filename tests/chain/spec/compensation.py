"""What a gateway pays for work that its checkpoints left out, from which of its money, and what it then still owes."""

from __future__ import annotations

from collections.abc import Sequence

from chain import merkle
from chain.contract_errors import InsufficientCover, NothingMissing
from chain.merkle import Sibling
from chain.primitives import Address, Bytes32, key_of, share_of
from tests.chain.spec.base import Tx, call
from tests.chain.spec.settlement_state import CheckpointStatus, SettlementState, Slot


class Compensation(SettlementState):
    """Line first, then credit, then effective stake; the rest is debt, which any later money still owes."""

    @call
    def collect_debt(self, tx: Tx, gateway_id: str, provider_id: str, epoch: int) -> None:
        """Compensates what could not be paid before, as far as there is money now."""
        gateway, provider = key_of(gateway_id), key_of(provider_id)
        self.ledger.gateways.known(gateway)
        model_id = self.ledger.providers.known(provider).model_id
        units = self._debt_units[gateway, provider, epoch]
        if not units:
            raise NothingMissing()
        slot = Slot(gateway, model_id, epoch)
        if not self._affordable(slot, provider, units):
            raise InsufficientCover(self._fee(slot, units), self.cover(gateway, provider))
        self._compensate(tx, slot, provider, units, tx.sender)

    def cover(self, gateway: Bytes32, provider: Bytes32) -> int:
        """`avail` in the rules: what compensations of this provider can take."""
        staking = self.ledger.gateway_staking
        line, effective = staking.line_of(gateway, provider).amount, staking.effective_stake_of_key(gateway)
        return line + self.ledger.escrow.credit_of(gateway) + effective

    def charge(self, gateway: Bytes32, amount: int) -> None:
        """Credit first, then effective stake."""
        taken = self.ledger.escrow.spend_credit(gateway, amount, self.address)
        self.ledger.gateway_staking.charge(gateway, amount - taken, self.address)

    def has_leaf(self, slot: Slot, provider: Bytes32, units: int, proof: Sequence[Sibling]) -> bool:
        """Whether the slot's checkpoint has this leaf."""
        posted = self._checkpoints[slot]
        leaf = merkle.leaf_hash(slot.gateway, provider, slot.model_id, slot.epoch, units)
        known = posted.status is CheckpointStatus.POSTED
        return known and merkle.verify(posted.root, posted.total_units, leaf, units, proof)

    def missing(self, slot: Slot, provider: Bytes32, units: int) -> int:
        """Of the units promised, those neither known nor owed already, with what is owed; 0 if they cost nothing."""
        work = slot.gateway, provider, slot.epoch
        missing = units - self.known_units(work)
        return missing if missing > self._debt_units[work] and self._fee(slot, missing) else 0

    def _compensate(self, tx: Tx, slot: Slot, provider: Bytes32, missing: int, challenger: Address) -> None:
        """Pays for `missing` units as far as the gateway's money goes; the rest becomes its debt for this work."""
        work = slot.gateway, provider, slot.epoch
        paid = self._affordable(slot, provider, missing)
        self._owe(slot, provider, missing - paid)
        if not paid:
            return
        self._compensated[work] += paid
        fee = self._fee(slot, paid)
        line = self.ledger.gateway_staking.charge_line(slot.gateway, provider, fee, self.address)
        self.charge(slot.gateway, fee - line)
        p = self.parameters_at(slot.epoch + 1)
        royalty = share_of(fee, self.ledger.models.model(slot.model_id).royalty_bps)
        burned = share_of(fee, p.gateway_share_bps) + share_of(fee, p.burn_bps)
        self._royalties[slot.model_id] += royalty
        self.ledger.token.destroy(self.address, burned)
        self._payments[self.ledger.providers.known(provider).owner] += fee - royalty - burned
        self._penalise(tx, slot.gateway, share_of(fee, self.parameters(tx.block).omission_penalty_bps), challenger)

    def _affordable(self, slot: Slot, provider: Bytes32, units: int) -> int:
        """As many of the units as the gateway can pay this provider for."""
        cover = self.cover(slot.gateway, provider)
        if self._fee(slot, units) <= cover:
            return units
        return min(units, self.ledger.models.units_for(slot.model_id, slot.epoch, cover))

    def _owe(self, slot: Slot, provider: Bytes32, units: int) -> None:
        """Replaces the debt for this work."""
        work = slot.gateway, provider, slot.epoch
        self._debts[slot.gateway] += self._fee(slot, units) - self._fee(slot, self._debt_units[work])
        self._debt_units[work] = units

    def _penalise(self, tx: Tx, gateway: Bytes32, penalty: int, challenger: Address) -> None:
        """Takes at most the effective stake; the challenger's part is paid, the rest burned."""
        taken = min(penalty, self.ledger.gateway_staking.effective_stake_of_key(gateway))
        self.ledger.gateway_staking.charge(gateway, taken, self.address)
        reward = share_of(taken, self.parameters(tx.block).challenger_bps)
        self._payments[challenger] += reward
        self.ledger.token.destroy(self.address, taken - reward)

    def _fee(self, slot: Slot, units: int) -> int:
        return self.ledger.models.fee_for(slot.model_id, slot.epoch, units)
