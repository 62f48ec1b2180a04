"""A missed commitment is penalised through the client, with the reports and receipts that the contract asks for."""

from __future__ import annotations

import pytest

from chain.contract_errors import InvalidSignature, LengthMismatch, ServedIncomplete, SlaAlreadyPenalized
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.primitives import key_of
from chain.vouchers import ContributionReceipt, Domain, SlaReport, digest
from tests.chain.shells.steps import FUNC, METADATA, STAKE, publish
from tests.chain.shells.world import Net

UNITS = 8_000
GATEWAYS = {"g2": 2, "g3": 3, "g4": 4}
"""Each with the account that owns it and signs for it."""


def _domain(net: Net, contract: str) -> Domain:
    return Domain(net.deployment.chain_id, bytes.fromhex(net.deployment.address(contract)[2:]))


async def test_a_missed_commitment_costs_once_what_was_promised(any_net: Net) -> None:
    async with any_net.client(1) as provider:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        for name, account in GATEWAYS.items():
            async with any_net.client(account) as gateway:
                await gateway.gateways.register_and_stake(name, "", 200 * FUNC)
        await provider.slashing.commit_sla("p", uptime_bps=9900, latency_ms=500, penalty_bps=1000, epochs=9)
        epoch = await any_net.next_epoch(provider)
        await any_net.to_epoch(provider, epoch + 1)
        leaves = {name: CheckpointLeaves(name, model, epoch, {"p": UNITS}) for name in GATEWAYS}
        for name, account in GATEWAYS.items():
            async with any_net.client(account) as gateway:
                await gateway.settlement.post_tree(leaves[name].tree(), leaves[name].data_hash())
        await any_net.to_epoch(provider, epoch + 4)
        for name in GATEWAYS:
            await provider.settlement.prove_contribution_for(name, "p", epoch, *leaves[name].proof("p"))
        served = sorted(GATEWAYS, key=key_of)
        reports, signatures, receipts = [], [], []
        for name in served:
            report = SlaReport(key_of(name), key_of("p"), epoch, 10, 5_000, 100)
            reports.append(report)
            signatures.append(faucet(GATEWAYS[name]).sign_digest(digest(_domain(any_net, "Slashing"), report)))
            receipt = ContributionReceipt(key_of(name), key_of("p"), model, epoch, UNITS)
            receipts.append(faucet(1).sign_digest(digest(_domain(any_net, "Settlement"), receipt)))
        keys, units = [key_of(name) for name in served], [UNITS] * 3
        enforce = provider.slashing.enforce_sla
        with pytest.raises(ServedIncomplete):
            await enforce("p", epoch, keys[:2], reports[:2], signatures[:2], units[:2], receipts[:2])
        with pytest.raises(LengthMismatch):
            await enforce("p", epoch, keys, reports, signatures, units, receipts[:2])
        with pytest.raises(InvalidSignature):  # work that the provider never acknowledged
            await enforce("p", epoch, keys, reports, signatures, [UNITS + 1] * 3, receipts)
        enforced = await enforce("p", epoch, keys, reports, signatures, units, receipts)
        assert enforced.event("SlaPenalized").arguments.penalty == STAKE // 10
        status = await provider.providers.status("p")
        assert status.stake == STAKE - STAKE // 10 and not status.eligible
        assert status.jailed_until == await provider.slashing.provider_jailed_until("p") > epoch + 4
        with pytest.raises(SlaAlreadyPenalized):
            await enforce("p", epoch, keys, reports, signatures, units, receipts)
