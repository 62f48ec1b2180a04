"""The staking client on a real chain: every call, approvals, dry runs, events, many at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from chain.abi import Event
from chain.client.calls.network import RaterKind
from chain.client.calls.providers import check_provider_metadata, provider_metadata
from chain.client.lifecycle import Policy
from chain.client.staking import StakingClient
from chain.client.sync import SyncStakingClient
from chain.client.tickets import Call
from chain.contract_errors import (
    ERC20InsufficientBalance,
    ModelNameTaken,
    NotProviderOwner,
    OwnableUnauthorizedAccount,
    StakeLocked,
    UnknownGateway,
    UnknownModel,
    UnknownProvider,
)
from chain.devnet.accounts import faucet
from chain.devnet.bootstrap import FUNC_EACH
from chain.errors import (
    ChainConfigError,
    FeeTooHigh,
    InsufficientFunds,
    InvalidArgument,
    JournalError,
    WrongChain,
)
from chain.leaves import CheckpointLeaves
from chain.primitives import key_of
from chain.units import WEI_PER_FUNC
from chain.vouchers import ContributionVoucher, Domain, PaymentVoucher, digest
from chain.wallet import Account
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC
STAKE = 100 * FUNC
METADATA = provider_metadata("https://node.example", "node")


async def publish(client: StakingClient, name: str = "model", price: int = 10**15) -> int:
    result = await client.models.create_model(
        name, b"\x07" * 32, "ipfs://about", blocks=8, price_per_token=price, royalty_bps=500, model_stake_amount=STAKE
    )
    return int(result.event("ModelCreated").arguments.model_id)


def names(events: tuple[Event, ...]) -> list[str]:
    return [event.name for event in events if event.name not in ("Transfer", "Approval")]


# --- money before a call ---


async def test_func_is_approved_before_staking_and_that_is_said(any_net: Net) -> None:
    heard: list[tuple[str, int, str]] = []
    async with any_net.client(1, on_approval=lambda *said: heard.append(said)) as client:
        model = await publish(client)
        result = await client.providers.register_and_stake("p", model, METADATA)
        assert [(contract, amount) for contract, amount, _ in heard] == [("ProviderRegistry", STAKE)]
        assert [each.tx_hash for each in result.approvals] == [heard[0][2]]
        assert names(result.events) == ["ProviderRegistered", "ProviderStaked", "ProviderRegisteredAndStaked"]
        # Exactly what was needed: nothing stays allowed.
        assert await client.token.allowance(any_net.deployment.address("ProviderRegistry")) == 0


async def test_an_allowance_that_suffices_is_used(net: Net) -> None:
    async with net.client(1) as client:
        await client.token.approve(net.deployment.address("Escrow"), 50)
        result = await client.escrow.deposit(20)
        assert result.approvals == ()
        assert await client.token.allowance(net.deployment.address("Escrow")) == 30


async def test_a_permit_is_an_approval_that_somebody_else_sends(any_net: Net) -> None:
    owner, sender = Account.create(), 2
    spender = any_net.deployment.address("Escrow")
    async with any_net.client(owner) as penniless, any_net.client(sender) as client:
        permit = await penniless.token.sign_permit(spender, 77, int(time.time()) + 3600)
        assert await client.core.native_balance(owner.address) == 0
        await client.token.permit(permit)
        assert await client.token.allowance(spender, owner.address) == 77


async def test_without_enough_func_nothing_is_sent(any_net: Net) -> None:
    async with any_net.client(1) as client:
        await client.token.approve(any_net.deployment.address("Escrow"), 2 * FUNC_EACH)
        before = await client.core.rpc.call("eth_getTransactionCount", client.address, "latest")
        with pytest.raises(ERC20InsufficientBalance) as raised:
            await client.escrow.deposit(2 * FUNC_EACH)
        assert raised.value.needed == 2 * FUNC_EACH
        assert await client.core.rpc.call("eth_getTransactionCount", client.address, "latest") == before


async def test_without_gas_money_we_say_that(any_net: Net) -> None:
    async with any_net.client(Account.create()) as client:
        with pytest.raises(InsufficientFunds):
            await client.gateways.register("g", "")


# --- dry runs ---


async def test_a_dry_run_estimates_and_sends_nothing(any_net: Net) -> None:
    async with any_net.client(1) as client:
        model = await publish(client)
        before = await any_net.block()
        dry = await client.providers.register_and_stake("p", model, METADATA).dry_run()
        assert [label for label, _ in dry.steps] == ["FuncToken.approve", "ProviderRegistry.registerAndStake"]
        assert dry.exact and dry.cost > 0
        assert await any_net.block() == before
        result = await client.providers.register_and_stake("p", model, METADATA)
        # The first approval makes a storage slot, which the imagined one leaves warm: a few per cent.
        assert 0.9 * result.gas_used < dry.gas < 1.25 * result.gas_used


async def test_a_dry_run_of_what_would_fail_says_why(any_net: Net) -> None:
    async with any_net.client(1) as client:
        with pytest.raises(UnknownModel):
            await client.providers.register_and_stake("p", 99, METADATA).dry_run()


# --- every workflow by its calls ---


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


# --- what is refused here, before any transaction ---


@pytest.mark.parametrize(
    "metadata",
    ["{}", "", "https://node.example", '{"url": 5}', '{"url": " "}', "[1]", '{"url": "x", "name": 1}', "[" * 1000,
     '{"url": "' + "x" * 1100 + '"}'],
)  # fmt: skip
def test_a_provider_s_metadata_is_json_with_a_url(metadata: str) -> None:
    with pytest.raises(InvalidArgument):
        check_provider_metadata(metadata)


def test_good_metadata_is_taken() -> None:
    assert check_provider_metadata('{"url": "https://node.example", "name": "n", "more": [1]}')
    assert provider_metadata("https://grüße.example") == '{"url":"https://grüße.example"}'


async def test_arguments_are_checked_before_anything_is_asked(net: Net) -> None:
    async with net.client(1) as client:
        wrong: list[Any] = [
            lambda: client.gateways.register("", ""),
            lambda: client.gateways.register("x" * 65, ""),
            lambda: client.gateways.register("ü" * 33, ""),
            lambda: client.gateways.register("g", "x" * 1025),
            lambda: client.gateways.register_and_stake("g", "", 0),
            lambda: client.gateways.stake_for_gateway("g", -1),
            lambda: client.escrow.deposit(2**128),
            lambda: client.escrow.deposit(1.5),  # type: ignore[arg-type]
            lambda: client.escrow.authorize_signer("0x12"),
            lambda: client.providers.claim_rewards("p", 5, 4),
            lambda: client.providers.claim_rewards("p", 0, 4),
            lambda: client.providers.claim_rewards_cluster(1, 513),
            lambda: client.models.create_model(
                "m", b"short", "", blocks=1, price_per_token=1, royalty_bps=1, model_stake_amount=1
            ),
        ]
        for call in wrong:
            with pytest.raises(InvalidArgument):
                call()


async def test_what_is_unknown_has_its_own_error(net: Net) -> None:
    async with net.client(None) as reader:
        with pytest.raises(UnknownProvider):
            await reader.providers.status("nobody")
        with pytest.raises(UnknownGateway):
            await reader.gateways.status("nobody")
        with pytest.raises(UnknownModel):
            await reader.models.show(99)
        with pytest.raises(ChainConfigError, match="wallet"):
            await reader.gateways.register("g", "")


async def test_somebody_else_s_provider_is_not_ours_to_stake(net: Net) -> None:
    async with net.client(1) as owner, net.client(2) as other:
        model = await publish(owner)
        await owner.providers.register("p", model, METADATA)
        await other.token.approve((await owner.providers.status("p")).pool, STAKE)
        with pytest.raises(NotProviderOwner) as raised:
            await other.providers.stake_for_provider("p")
        assert raised.value.caller == other.address


# --- which chain ---


async def test_a_node_on_another_chain_is_refused(net: Net) -> None:
    from dataclasses import replace

    for wrong in (
        replace(net.deployment, chain_id=7),
        replace(net.deployment, anchor_hash="0x" + "11" * 32),
        replace(net.deployment, anchor_number=10**9),
    ):
        with pytest.raises(WrongChain):
            async with net.client(1, deployment=wrong):
                pass


# --- fees, keys, many at once ---


async def test_a_limit_on_fees_is_kept(net: Net) -> None:
    async with net.client(1, policy=Policy(max_fee=5)) as client:
        with pytest.raises(FeeTooHigh):
            await client.gateways.register("g", "")


async def test_a_key_makes_a_call_once_for_good(net: Net, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    async with net.client(1, journal=journal) as client:
        first = await client.escrow.deposit(5).execute(key="deposit of monday")
        again = await client.escrow.deposit(5).execute(key="deposit of monday")
        assert again.tx_hash == first.tx_hash and again.outcome.resumed
        with pytest.raises(JournalError, match="another call"):
            await client.escrow.deposit(6).execute(key="deposit of monday")
    async with net.client(1, journal=journal) as client:
        later = await client.escrow.deposit(5).execute(key="deposit of monday")
        assert later.tx_hash == first.tx_hash
        assert (await client.escrow.balance()).balance == 5
        # Without a key, the same call is another deposit.
        await client.escrow.deposit(5)
        assert (await client.escrow.balance()).balance == 10


async def test_two_hundred_sends_at_once_have_two_hundred_nonces(any_net: Net, tmp_path: Path) -> None:
    async with any_net.client(6, journal=tmp_path / "journal.sqlite", timeout=200) as client:
        before = int(await client.core.rpc.call("eth_getTransactionCount", client.address, "latest"), 16)
        calls = [Call(faucet(7).address, b"", f"transfer {i}", value=i + 1) for i in range(200)]
        outcomes = await asyncio.gather(*(client.transactor.send(call) for call in calls))
        assert len({outcome.tx_hash for outcome in outcomes}) == 200
        after = int(await client.core.rpc.call("eth_getTransactionCount", client.address, "latest"), 16)
        assert after == before + 200
        history = client.transactor.journal.history(client.address, 300)
        assert sorted(intent.nonce for intent in history) == list(range(before, after))
        assert all(len(intent.attempts) == 1 for intent in history)


async def test_calls_that_spend_from_one_allowance_do_not_take_it_from_each_other(any_net: Net) -> None:
    async with any_net.client(3) as client:
        await client.token.approve(any_net.deployment.address("Escrow"), 25)
        results = await asyncio.gather(*(client.escrow.deposit(10) for _ in range(6)))
        assert (await client.escrow.balance()).balance == 60
        assert sum(len(result.approvals) for result in results) >= 3


async def test_a_call_that_reverts_is_refused_before_it_is_sent_and_leaves_no_trace(net: Net, tmp_path: Path) -> None:
    async with net.client(1, journal=tmp_path / "j.sqlite") as client:
        with pytest.raises(UnknownGateway):
            await client.gateways.restart_gateway("nobody")
        assert client.transactor.journal.history(client.address) == []


# --- without asyncio ---


async def test_the_same_calls_without_asyncio(net: Net) -> None:
    await asyncio.to_thread(_without_asyncio, net)


def _without_asyncio(net: Net) -> None:
    with SyncStakingClient(net.url, net.deployment, account=faucet(9), poll=0.05) as client:
        assert client.address == faucet(9).address
        assert client.epochs.current_epoch() >= 1
        dry = client.dry_run(lambda c: c.escrow.deposit(5))
        assert dry.gas > 21_000
        result = client.escrow.deposit(5)
        assert result.event("Deposited").arguments.amount == 5
        assert client.escrow.balance().balance == 5
        with pytest.raises(UnknownProvider):
            client.providers.status("nobody")
        client.escrow.thaw(5)
    with pytest.raises(ChainConfigError):
        client.epochs.current_epoch()
