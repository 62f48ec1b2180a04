"""Every workflow by the calls of the staking client, on a real chain: providers, gateways, deposits, disputes."""

from __future__ import annotations

import pytest

from chain.client.calls.escrow import Deposit
from chain.client.calls.models import ranked
from chain.client.calls.providers import provider_metadata
from chain.contract_errors import (
    DrawTooEarly,
    GatewayInDebt,
    InsufficientBalance,
    InsufficientStake,
    InvalidSignature,
    ModelNameTaken,
    NoVotingStake,
    StakeLocked,
    StillThawing,
)
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.primitives import key_of
from chain.vouchers import ContributionVoucher, Domain, PaymentVoucher, digest
from tests.chain.shells.steps import FUNC, METADATA, STAKE, decree, names, publish, work
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
        # A gateway that winds down is active still, as the seeds say, but works no more.
        assert await client.gateways.is_eligible("h") and not await client.gateways.is_eligible("g")
        assert await client.gateways.is_active("g")
        status = await client.gateways.status("g")
        await any_net.to_epoch(client, max(status.wind_down_end, status.unlock_epoch))
        assert names((await client.gateways.unstake_for_gateway("g")).events) == ["GatewayUnstaked"]
        await client.gateways.update_metadata("h", "new")
        await client.gateways.deactivate("h")
        await client.gateways.reactivate("h")
        assert (await client.gateways.status("h")).metadata == "new"


async def test_a_deposit_s_life(any_net: Net) -> None:
    async with any_net.client(3) as developer, any_net.client(2) as gateway:
        await gateway.gateways.register_and_stake("g", "", 200 * FUNC)
        await gateway.gateways.register_and_stake("other", "", 200 * FUNC)
        await developer.escrow.deposit(100)
        await gateway.escrow.deposit(11, developer.address)
        reserved = await developer.escrow.reserve("g", 90)
        assert reserved.event("Reserved").arguments.total == 90
        await developer.escrow.deposit_and_reserve("other", 7)
        deposit = await developer.escrow.deposit_of()
        assert (deposit.free, {each.gateway: each.amount for each in deposit.reservations}) == (
            21,
            {"g": 90, "other": 7},
        )
        signature = faucet(3).sign_digest(digest(_domain(any_net, "Escrow"), _owes("g", 40)))
        redeemed = await gateway.escrow.redeem(_owes("g", 40), signature)
        assert redeemed.event("VoucherRedeemed").arguments.paid == 40
        more = faucet(3).sign_digest(digest(_domain(any_net, "Escrow"), _owes("g", 45)))
        await gateway.escrow.redeem_batch([_owes("g", 45)], [more])
        assert await gateway.escrow.redeemed(developer.address, "g") == await gateway.escrow.credit_of("g") == 45
        # What one gateway was promised, another cannot take.
        greedy = faucet(3).sign_digest(digest(_domain(any_net, "Escrow"), _owes("other", 90)))
        assert (await gateway.escrow.redeem(_owes("other", 90), greedy)).event("VoucherRedeemed").arguments.paid == 7
        await developer.escrow.authorize_signer(faucet(4).address)
        await developer.escrow.thaw_signer(faucet(4).address)
        await developer.escrow.thaw("g", 30)
        await developer.escrow.cancel_thaw("g")
        await developer.escrow.thaw("g", 45)
        found = await developer.escrow.reservation("g")
        assert (found.amount, found.available, found.thawing) == (45, 0, 45)
        with pytest.raises(StillThawing) as early:
            await developer.escrow.withdraw_reserved("g")
        assert early.value.thaw_end == found.thaw_end
        await any_net.to_epoch(developer, found.thaw_end)
        assert (await developer.escrow.withdraw_reserved("g")).event("ReservationWithdrawn").arguments.amount == 45
        assert (await developer.escrow.withdraw(21)).event("Withdrawn").arguments.amount == 21
        assert await developer.escrow.deposit_of() == Deposit(developer.address, 0, ())
        with pytest.raises(InsufficientBalance):
            await developer.escrow.withdraw(1)


async def test_a_gateway_s_credit_leaves_with_a_delay(any_net: Net) -> None:
    async with any_net.client(2) as gateway:
        await gateway.gateways.register_and_stake("g", "", 200 * FUNC)
        await gateway.escrow.top_up_credit("g", 50)
        await gateway.escrow.thaw_credit("g", 20)
        credit = await gateway.escrow.credit("g")
        assert (credit.amount, credit.thawing) == (50, 20)
        status = await gateway.gateways.status("g")
        assert (status.credit, status.credit_thawing, status.credit_thaw_end) == (50, 20, credit.thaw_end)
        with pytest.raises(StillThawing):
            await gateway.escrow.withdraw_credit("g")
        await any_net.to_epoch(gateway, credit.thaw_end)
        withdrawn = await gateway.escrow.withdraw_credit("g")
        assert withdrawn.event("GatewayCreditWithdrawn").arguments.amount == 20
        assert await gateway.escrow.credit_of("g") == 30


async def test_a_line_is_funded_thawed_and_released(any_net: Net) -> None:
    async with any_net.client(1) as provider, any_net.client(2) as gateway:
        model = await publish(provider)
        for name in ("p", "q"):
            await provider.providers.register_and_stake(name, model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 200 * FUNC)
        funded = await gateway.gateways.fund_lines("g", {"p": 60 * FUNC, "q": 40 * FUNC})
        assert names(funded.events) == ["LineFunded"] * 2
        assert {line.provider: line.guaranteed for line in await gateway.gateways.lines("g")} == {
            "p": 60 * FUNC, "q": 40 * FUNC,
        }  # fmt: skip
        status = await gateway.gateways.status("g")
        assert (status.reserved, status.effective_stake, status.eligible) == (100 * FUNC, 100 * FUNC, True)
        with pytest.raises(InsufficientStake) as short:
            await gateway.gateways.fund_lines("g", {"p": 1})
        assert short.value.arguments == {"wanted": 1, "spare": 0}
        await gateway.gateways.thaw_line("g", "p", 25 * FUNC)
        assert await gateway.gateways.guaranteed("g", "p") == 35 * FUNC
        line = await gateway.gateways.line("g", "p")
        assert (line.amount, line.thawing, line.held) == (60 * FUNC, 25 * FUNC, 0)
        await any_net.to_epoch(gateway, line.thaw_end)
        released = await gateway.gateways.release_line("g", "p")
        assert released.event("LineReleased").arguments.amount == 25 * FUNC
        assert await gateway.gateways.effective_stake("g") == 125 * FUNC


async def test_nobody_signs_for_a_gateway_or_provider_without_having_agreed(any_net: Net) -> None:
    async with any_net.client(1) as client, any_net.client(5) as signer:
        model = await publish(client)
        await client.providers.register("p", model, METADATA)
        await client.gateways.register("g", "")
        for part, mine in ((client.providers, signer.providers), (client.gateways, signer.gateways)):
            name = "p" if part is client.providers else "g"
            with pytest.raises(InvalidSignature):
                await part.set_signer(name, signer.address)
            with pytest.raises(InvalidSignature):  # an agreement with another owner
                await part.set_signer(name, signer.address, mine.sign_consent(name, faucet(6).address))
            await part.set_signer(name, signer.address, mine.sign_consent(name, client.address))
            await part.set_signer(name, client.address)  # oneself needs no agreement


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
            assert await provider.settlement.proven_units("g", name, epoch) == units
        owed = {name: await provider.providers.view_rewards(name, epoch, epoch) for name in ("p", "q")}
        # Of the boost, 5 % burn as they do of fees.
        assert owed["q"] in (2 * owed["p"], 2 * owed["p"] + 1) and sum(owed.values()) > 6 * FUNC
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
        assert info.burned >= 7 * FUNC * 5 // 100 and await provider.models.spent_by(model, "g") > 0


async def test_a_voucher_above_the_leaf_is_challenged(any_net: Net) -> None:
    async with any_net.client(1) as provider, any_net.client(2) as gateway:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        epoch = await any_net.next_epoch(gateway)
        await any_net.to_epoch(gateway, epoch + 1)
        leaves = CheckpointLeaves("g", model, epoch, {"p": 8_000})
        await gateway.settlement.post_tree(leaves.tree(), leaves.data_hash())
        voucher, signature = _voucher(any_net, model, epoch, 16_000)
        result = await provider.settlement.challenge_omission(voucher, signature, *leaves.proof("p"))
        assert names(result.events).count("ProviderCompensated") == 1
        owed = await provider.settlement.payments_of()
        assert owed > 0
        paid = await provider.settlement.withdraw_payments()
        assert paid.event("PaymentWithdrawn").arguments.amount == owed
        assert await provider.settlement.compensated_units("g", "p", epoch) == 8_000
        assert await provider.settlement.shown_units("g", "p", epoch) == 8_000


async def test_a_leaf_that_is_kept_back_is_asked_for_and_shown(any_net: Net) -> None:
    async with any_net.client(1) as provider, any_net.client(2) as gateway:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        epoch, leaves = await work(any_net, gateway, "g", model, {"p": 80_000})
        voucher, signature = _voucher(any_net, model, epoch, 80_000)
        bond = await provider.settlement.bond_for(voucher)
        assert bond == await provider.models.fee_for(model, epoch, 80_000) // 10
        opened = await provider.settlement.open_omission_challenge(voucher, signature)
        assert len(opened.approvals) == 1
        number = opened.event("ChallengeOpened").arguments.challenge_id
        assert (await provider.settlement.challenge(number)).bond == bond
        answered = await gateway.settlement.answer_omission(number, *leaves.proof("p"))
        assert answered.event("OmissionAnswered").arguments.units == 80_000
        assert await provider.settlement.challenged_units("g", "p", epoch) == 80_000
        # Nothing is missing: the contract says so, and no bond is approved for it.
        assert await provider.settlement.bond_for(voucher) == 0


async def test_a_leaf_that_nobody_shows_is_paid_for_and_what_cannot_be_paid_is_a_debt(any_net: Net) -> None:
    async with any_net.client(1) as provider, any_net.client(2) as gateway:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 101 * FUNC)
        epoch, _ = await work(any_net, gateway, "g", model, {"q": 8})
        voucher, signature = _voucher(any_net, model, epoch, 1_600_000)  # 200 FUNC
        opened = await provider.settlement.open_omission_challenge(voucher, signature)
        number = opened.event("ChallengeOpened").arguments.challenge_id
        await any_net.to_epoch(provider, (await provider.settlement.challenge(number)).answer_by + 1)
        resolved = await provider.settlement.resolve_challenge(number)
        assert {"ProviderCompensated", "DebtRecorded", "ChallengeUpheld"} <= set(names(resolved.events))
        debt = await provider.settlement.debt_of("g")
        assert debt > 0 and (await gateway.gateways.status("g")).debt == debt
        left = await provider.settlement.debt_units("g", "p", epoch)
        await gateway.escrow.top_up_credit("g", 10 * FUNC)
        await provider.settlement.collect_debt("g", "p", epoch)
        assert await provider.settlement.debt_units("g", "p", epoch) == left - 80_000
        with pytest.raises(GatewayInDebt):
            await gateway.escrow.top_up_credit("g", 1)
            await gateway.escrow.thaw_credit("g", 1)
            await any_net.to_epoch(gateway, (await gateway.escrow.credit("g")).thaw_end)
            await gateway.escrow.withdraw_credit("g")


async def test_models_are_published_ranked_and_rated_by_who_paid_for_them(any_net: Net) -> None:
    async with any_net.client(1) as client, any_net.client(2) as gateway:
        first, second = await publish(client, "one"), await publish(client, "two")
        with pytest.raises(ModelNameTaken):
            await publish(client, "two")
        assert (await client.models.id_of("two"), await client.models.id_of("three")) == (second, None)
        await client.providers.register_and_stake("p", second, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        with pytest.raises(NoVotingStake):  # nothing burned for it yet
            await gateway.models.rate_model(second, "g", 4)
        await work(any_net, gateway, "g", second, {"p": 80_000})
        spent = await gateway.models.spent_by(second, "g")
        await gateway.models.rate_model(second, "g", 4)
        await gateway.models.refresh_rating(second, "g")
        await client.models.update_price(first, 5)
        await client.models.disable(first)
        listed = {model.model_id: model for model in await client.models.list()}
        assert (listed[second].rating, listed[second].rating_weight) == (400, spent)
        assert not listed[first].enabled and listed[first].rating is None
        assert [model.model_id for model in ranked(list(listed.values()))] == [second, first]
        await client.models.enable(first)
        await any_net.next_epoch(client)
        await any_net.mine()
        assert (await client.models.show(first)).price_per_token == 10**15  # two epochs of notice
        await any_net.next_epoch(client)
        await any_net.mine()
        assert (await client.models.show(first)).price_per_token == 5


async def test_a_commitment_and_a_case_against_a_provider(any_net: Net) -> None:
    async with any_net.client(0) as owner, any_net.client(1) as client:
        model = await publish(client)
        await client.providers.register_and_stake("p", model, METADATA)
        await client.slashing.commit_sla("p", uptime_bps=9900, latency_ms=500, penalty_bps=100, epochs=3)
        assert (await client.slashing.sla("p")).uptime_bps == 9900
        for index in (4, 5, 6):
            await decree(owner, owner.disputes.set_verifier(faucet(index).address, True))
        async with any_net.client(4) as four, any_net.client(5) as five:
            opened = await four.disputes.open_case("p", 1, b"\x01" * 32)
            case = opened.event("CaseOpened").arguments.case_id
            with pytest.raises(DrawTooEarly) as early:
                await four.disputes.draw_panel(case)
            assert early.value.draw_block == (await four.disputes.case_of(case)).draw_block
            await any_net.mine(3)
            assert (await client.disputes.draw_panel(case)).event("PanelDrawn").arguments.case_id == case
            assert sorted(await client.disputes.panel_of(case)) == sorted(faucet(i).address for i in (4, 5, 6))
            await four.disputes.vote(case, True)
            await five.disputes.vote(case, True)
        assert await client.slashing.provider_jailed_until("p") > 0
        disputed = await client.disputes.dispute(case)
        assert len(disputed.approvals) == 1
        assert (await client.disputes.case_of(case)).bonder == client.address


def _domain(net: Net, contract: str) -> Domain:
    return Domain(net.deployment.chain_id, bytes.fromhex(net.deployment.address(contract)[2:]))


def _owes(gateway: str, amount: int) -> PaymentVoucher:
    return PaymentVoucher(faucet(3).canonical, key_of(gateway), amount)


def _voucher(net: Net, model: int, epoch: int, units: int) -> tuple[ContributionVoucher, bytes]:
    """Gateway g's, signed by account 2, for provider p."""
    voucher = ContributionVoucher(key_of("g"), key_of("p"), model, epoch, units)
    return voucher, faucet(2).sign_digest(digest(_domain(net, "Settlement"), voucher))
