"""Every workflow by the calls of the staking client, on a real chain: providers, gateways, deposits, disputes."""

from __future__ import annotations

import pytest

from chain.client.calls.network import RaterKind
from chain.client.calls.providers import provider_metadata
from chain.contract_errors import (
    ModelNameTaken,
    OwnableUnauthorizedAccount,
    StakeLocked,
)
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.primitives import key_of
from chain.vouchers import ContributionVoucher, Domain, PaymentVoucher, digest
from tests.chain.shells.steps import FUNC, METADATA, STAKE, names, publish
from tests.chain.shells.world import Net


async def test_a_provider_s_life(any_net: Net) -> None:
    async with any_net.client(1) as client:
        model = await publish(client)
        await client.providers.register("p", model, METADATA)
        status = await client.providers.status("p")
        assert (status.active, status.stake, status.owner) == (False, 0, client.address)
        staked = await client.providers.stake_for_provider("p")
        assert names(staked.events) == ["ProviderStaked"]
        status = await client.providers.status("p")
        assert status.active and status.stake == status.needed_stake == STAKE
        assert await client.providers.owned() == ["p"]
        with pytest.raises(StakeLocked) as locked:
            await client.providers.unstake_provider("p")
        assert locked.value.unlock_epoch == status.unlock_epoch
        await client.providers.update_metadata("p", provider_metadata("https://other"))
        await client.providers.set_signer("p", faucet(4).address)
        await client.providers.deactivate("p")
        assert not (await client.providers.status("p")).active
        await client.providers.reactivate("p")
        await any_net.to_epoch(client, status.unlock_epoch)
        before = await client.token.balance()
        result = await client.providers.unstake_provider("p")
        assert names(result.events) == ["ProviderUnstaked"] and await client.token.balance() == before + STAKE


async def test_a_gateway_s_life(any_net: Net) -> None:
    async with any_net.client(2) as client:
        await client.gateways.register("g", "hello")
        assert not await client.gateways.is_active("g")
        await client.gateways.stake_for_gateway("g", 500 * FUNC)
        assert await client.gateways.is_active("g") and await client.gateways.effective_stake("g") == 500 * FUNC
        result = await client.gateways.register_and_stake("h", "", 200 * FUNC)
        assert names(result.events)[-1] == "GatewayRegisteredAndStaked"
        wound = await client.gateways.wind_down_gateways(["g", "h"])
        assert names(wound.events) == ["GatewayWoundDown"] * 2
        await client.gateways.restart_gateway("h")
        assert await client.gateways.is_active("h") and not await client.gateways.is_active("g")
        status = await client.gateways.status("g")
        await any_net.to_epoch(client, max(status.wind_down_end, status.unlock_epoch))
        assert names((await client.gateways.unstake_for_gateway("g")).events) == ["GatewayUnstaked"]
        await client.gateways.update_metadata("h", "new")
        await client.gateways.deactivate("h")
        await client.gateways.reactivate("h")
        assert (await client.gateways.status("h")).metadata == "new"


async def test_a_deposit_s_life(any_net: Net) -> None:
    async with any_net.client(3) as developer, any_net.client(2) as gateway:
        await developer.escrow.deposit(100)
        await gateway.escrow.deposit(11, developer.address)
        await gateway.gateways.register("g", "")
        voucher = PaymentVoucher(faucet(3).canonical, key_of("g"), 40)
        domain = Domain(any_net.deployment.chain_id, bytes.fromhex(any_net.deployment.address("Escrow")[2:]))
        signature = faucet(3).sign_digest(digest(domain, voucher))
        redeemed = await gateway.escrow.redeem(voucher, signature)
        assert redeemed.event("VoucherRedeemed").arguments.paid == 40
        more = PaymentVoucher(faucet(3).canonical, key_of("g"), 45)
        await gateway.escrow.redeem_batch([more], [faucet(3).sign_digest(digest(domain, more))])
        assert await gateway.escrow.redeemed(developer.address, "g") == await gateway.escrow.credit_of("g") == 45
        await gateway.escrow.top_up_credit("g", 5)
        await gateway.escrow.withdraw_credit("g")
        await developer.escrow.authorize_signer(faucet(4).address)
        await developer.escrow.thaw_signer(faucet(4).address)
        await developer.escrow.thaw(30)
        await developer.escrow.cancel_thaw()
        await developer.escrow.thaw(66)
        deposit = await developer.escrow.balance()
        assert (deposit.balance, deposit.available, deposit.thawing) == (66, 0, 66)
        await any_net.to_epoch(developer, deposit.thaw_end)
        assert (await developer.escrow.withdraw()).event("Withdrawn").arguments.amount == 66


async def test_work_is_checkpointed_proven_and_paid(any_net: Net) -> None:
    async with any_net.client(1) as provider, any_net.client(2) as gateway:
        model = await publish(provider)
        for name in ("p", "q"):
            await provider.providers.register_and_stake(name, model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        epoch = await any_net.next_epoch(gateway)
        await gateway.rewards.boost(model, epoch, 7 * FUNC)
        await any_net.to_epoch(gateway, epoch + 1)
        leaves = CheckpointLeaves("g", model, epoch, {"p": 8_000, "q": 16_000})
        posted = await gateway.settlement.post_tree(leaves.tree(), leaves.data_hash())
        fees = posted.event("CheckpointPosted").arguments.total_fees
        assert fees == await gateway.models.fee_for(model, epoch, 24_000) == 24_000 * 10**15 // 8
        assert (await gateway.settlement.checkpoint("g", model, epoch)).total_units == 24_000
        await any_net.to_epoch(gateway, epoch + 4)
        for name in ("p", "q"):
            units, proof = leaves.proof(name)
            call = provider.settlement.prove_contribution
            await (
                call(name, epoch, units, proof)
                if name == "p"
                else provider.settlement.prove_contribution_for("g", name, epoch, units, proof)
            )
            assert await provider.settlement.is_proven("g", name, epoch)
        owed = {name: await provider.providers.view_rewards(name, epoch, epoch) for name in ("p", "q")}
        assert owed["q"] in (2 * owed["p"], 2 * owed["p"] + 1) and sum(owed.values()) > 7 * FUNC
        before = await provider.token.balance()
        claimed = await provider.providers.claim_rewards("p", epoch, epoch)
        assert claimed.event("ProviderClaimedRewards").arguments.amount == owed["p"]
        cluster = provider.providers.cluster_claim(await provider.providers.claim_rewards_cluster(1, epoch))
        assert cluster.amount == owed["q"]
        assert {name: type(error).__name__ for name, error in cluster.failed.items()} == {"p": "NothingToClaim"}
        assert await provider.token.balance() == before + sum(owed.values())
        share = await gateway.gateways.view_rewards("g", epoch, epoch)
        assert share == fees // 10
        assert (await gateway.gateways.claim_rewards("g", epoch, epoch)).event(
            "GatewayClaimedRewards"
        ).arguments.amount == share
        royalty = await provider.settlement.royalty_of(model)
        assert royalty == fees // 20
        await provider.settlement.claim_royalty(model)
        info = await provider.models.show(model)
        assert (info.units, info.fees, info.epochs_used) == (24_000, fees, 1)


async def test_a_voucher_above_the_leaf_is_challenged(any_net: Net) -> None:
    async with any_net.client(1) as provider, any_net.client(2) as gateway:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        epoch = await any_net.next_epoch(gateway)
        await any_net.to_epoch(gateway, epoch + 1)
        leaves = CheckpointLeaves("g", model, epoch, {"p": 8_000})
        await gateway.settlement.post_tree(leaves.tree(), leaves.data_hash())
        voucher = ContributionVoucher(key_of("g"), key_of("p"), model, epoch, 16_000)
        domain = Domain(any_net.deployment.chain_id, bytes.fromhex(any_net.deployment.address("Settlement")[2:]))
        signature = faucet(2).sign_digest(digest(domain, voucher))
        result = await provider.settlement.challenge_omission(voucher, signature, *leaves.proof("p"))
        assert names(result.events).count("ProviderCompensated") == 1
        owed = await provider.settlement.payments_of()
        assert owed > 0
        paid = await provider.settlement.withdraw_payments()
        assert paid.event("PaymentWithdrawn").arguments.amount == owed
        # A leaf that nobody acknowledged: a bond is approved, and comes back when nobody answers.
        (leaf,) = leaves.tree().leaves
        opened = await provider.settlement.open_leaf_challenge("g", model, epoch, leaf, leaves.proof("p")[1])
        assert len(opened.approvals) == 1
        number = opened.event("ChallengeOpened").arguments.challenge_id
        await any_net.to_epoch(provider, (await provider.settlement.challenge(number)).answer_by + 1)
        await provider.settlement.resolve_challenge(number)
        assert await provider.slashing.gateway_jailed_until("g") > 0


async def test_models_are_published_ranked_and_rated(any_net: Net) -> None:
    async with any_net.client(1) as client:
        first, second = await publish(client, "one"), await publish(client, "two")
        with pytest.raises(ModelNameTaken):
            await publish(client, "two")
        await client.providers.register_and_stake("p", second, METADATA)
        await client.models.rate_model(second, RaterKind.PROVIDER, "p", 4)
        await client.models.refresh_rating(second, RaterKind.PROVIDER, "p")
        await client.models.update_price(first, 5)
        await client.models.disable(first)
        listed = {model.model_id: model for model in await client.models.list()}
        assert (listed[second].rating, listed[second].rating_weight) == (400, STAKE)
        assert not listed[first].enabled and listed[first].rating is None
        await client.models.enable(first)
        await any_net.next_epoch(client)
        await any_net.mine()
        assert (await client.models.show(first)).price_per_token == 5


async def test_the_owner_sets_what_the_owner_may(any_net: Net) -> None:
    async with any_net.client(0) as owner, any_net.client(1) as other:
        with pytest.raises(OwnableUnauthorizedAccount):
            await other.epochs.set_min_epochs_locked(5)
        await owner.epochs.set_min_epochs_locked(5)
        await owner.epochs.set_wind_down_delay(9)
        await owner.epochs.set_epoch_reward_delay(6)
        await owner.epochs.set_epoch_length(20)
        status = await owner.epochs.status()
        assert (status.min_epochs_locked, status.reward_delay, status.wind_down_delay) == (5, 6, 9)
        await owner.gateways.set_auto_whitelist(False)
        await other.gateways.register_and_stake("g", "", 1000 * FUNC)
        assert not await other.gateways.is_active("g")
        await owner.gateways.set_whitelisted("g", True)
        assert await other.gateways.is_active("g")


async def test_a_commitment_and_a_case_against_a_provider(any_net: Net) -> None:
    async with any_net.client(0) as owner, any_net.client(1) as client:
        model = await publish(client)
        await client.providers.register_and_stake("p", model, METADATA)
        await client.slashing.commit_sla("p", uptime_bps=9900, latency_ms=500, penalty_bps=100, epochs=3)
        assert (await client.slashing.sla("p")).uptime_bps == 9900
        for index in (4, 5, 6):
            await owner.disputes.set_verifier(faucet(index).address, True)
        async with any_net.client(4) as four, any_net.client(5) as five:
            opened = await four.disputes.open_case("p", 1, b"\x01" * 32)
            case = opened.event("CaseOpened").arguments.case_id
            assert sorted(await client.disputes.panel_of(case)) == sorted(faucet(i).address for i in (4, 5, 6))
            await four.disputes.vote(case, True)
            await five.disputes.vote(case, True)
        assert await client.slashing.provider_jailed_until("p") > 0
        disputed = await client.disputes.dispute(case)
        assert len(disputed.approvals) == 1
        assert (await client.disputes.case_of(case)).bonder == client.address
