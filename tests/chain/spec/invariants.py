"""What must hold between any two calls, part by part; each yields sentences about what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from chain.primitives import Bytes32, share_of
from tests.chain.spec.pools import ProviderStaking
from tests.chain.spec.settlement_state import ChallengeStatus

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger


def broken_lines(ledger: Ledger) -> Iterator[str]:
    """What is reserved is the sum of lines and part of the stake; nothing thaws or is held that is not there."""
    staking, escrow = ledger.gateway_staking, ledger.escrow
    reserved: dict[Bytes32, int] = {}
    for (gateway, provider), line in staking.lines().items():
        reserved[gateway] = reserved.get(gateway, 0) + line.amount
        if not (0 <= line.thawing <= line.amount and 0 <= line.held <= line.amount):
            yield f"the line of {gateway.hex()} for {provider.hex()} is {line}"
    for gateway, stake in staking.stakes().items():
        if not 0 <= stake.reserved <= stake.amount or stake.reserved != reserved.get(gateway, 0):
            yield f"gateway {gateway.hex()}: {stake}, but its lines are {reserved.get(gateway, 0)} wei"
    if not reserved.keys() <= staking.stakes().keys():
        yield "a line without a stake"
    for place, own in (*escrow.reservations().items(), *escrow.credits().items()):
        if not 0 <= own.thawing <= own.amount:
            yield f"{place} holds {own}"


def broken_debts(ledger: Ledger) -> Iterator[str]:
    """A gateway's debt is what its debt units cost; no line is held for more than its open challenges ask."""
    settlement = ledger.settlement
    debts: dict[Bytes32, int] = {}
    for (gateway, provider, epoch), units in settlement.all_debt_units().items():
        found = ledger.providers.known(provider)
        debts[gateway] = debts.get(gateway, 0) + ledger.models.fee_for(found.model_id, epoch, units)
        if units < 0:
            yield f"{gateway.hex()} owes {provider.hex()} {units} units"
    for gateway, debt in debts.items():
        if settlement.debt_of(gateway) != debt:
            yield f"the debt of {gateway.hex()} is {settlement.debt_of(gateway)} wei, its units cost {debt}"
    held: dict[tuple[Bytes32, Bytes32], int] = {}
    for challenge in settlement.challenges():
        if challenge.status is ChallengeStatus.OPEN:
            place = challenge.gateway, challenge.provider
            held[place] = held.get(place, 0) + challenge.held
    for place, line in ledger.gateway_staking.lines().items():
        if line.held > held.get(place, 0):
            yield f"the line {place} holds {line.held} wei for challenges of {held.get(place, 0)}"


def broken_burns(ledger: Ledger) -> Iterator[str]:
    """Emission is at most half of what the same work's fees burned, model by model or together."""
    settlement, emitted = ledger.settlement, ledger.reward_pool.emitted
    burned = sum(
        share_of(sums.fees, settlement.parameters_at(epoch + 1).burn_bps)
        for (_, epoch), sums in settlement.model_epochs().items()
        if sums.finalized
    )
    if 2 * emitted > burned:
        yield f"{emitted} wei were emitted, and {burned} burned by the same work"
    models = range(1, ledger.models.model_count + 1)
    counted = sum(ledger.models.usage(model_id).burned for model_id in models)
    if counted < burned - emitted:
        yield f"{burned - emitted} wei were burned for good, {counted} are counted"


def broken_pots(pool: ProviderStaking) -> Iterator[str]:
    proven: dict[int, int] = {}
    unclaimed: dict[int, int] = {}
    for (_, epoch), own in pool.contributions().items():
        proven[epoch] = proven.get(epoch, 0) + own.units
        unclaimed[epoch] = unclaimed.get(epoch, 0) + own.unclaimed
    for epoch, pot in pool.pots().items():
        where = f"pot of model {pool.model_id}, epoch {epoch}"
        if not unclaimed.get(epoch, 0) <= pot.allotted <= pot.amount:
            yield f"{where}: {pot.allotted} of {pot.amount} wei allotted, {unclaimed.get(epoch, 0)} unclaimed"
        if not proven.get(epoch, 0) == pot.proven_units <= pot.total_units:
            yield f"{where}: proven and total units out of order"
