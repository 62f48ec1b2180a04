"""The staking client on a real chain: approvals, dry runs, refusals, the right chain, fees, many at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from chain.client.calls.providers import check_provider_metadata, provider_metadata
from chain.client.lifecycle import Policy
from chain.client.pending import Call
from chain.client.sync import SyncStakingClient
from chain.contract_errors import (
    ERC20InsufficientBalance,
    NotProviderOwner,
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
from chain.text import Unreadable, metadata_hint
from chain.wallet import Account
from tests.chain.shells.steps import METADATA, STAKE, names, publish
from tests.chain.shells.world import Net

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


# --- what is refused here, before any transaction ---


@pytest.mark.parametrize(
    "metadata",
    ["my node", "a: b", '{"url": 5}', '{"url": " "}', "[1]", '{"url": "x", "name": 1}', "[" * 1000, '{"url": null}',
     '{"url": "' + "x" * 1100 + '"}', '{"url": "https://\\u001b[2J"}', "https://\u202enode", "{}\x00", "null", "{}{}"],
)  # fmt: skip
def test_metadata_by_which_a_provider_is_not_found_is_refused(metadata: str) -> None:
    with pytest.raises(InvalidArgument):
        check_provider_metadata(metadata)


def test_good_metadata_is_taken_without_a_word() -> None:
    for good in ('{"url": "https://node.example", "name": "n", "more": [1]}', '{\n "url": "p2p:12D3"\n}'):
        assert check_provider_metadata(good) == good and metadata_hint(good) is None
    assert provider_metadata("https://grüße.example") == '{"url":"https://grüße.example"}'


@pytest.mark.parametrize("metadata", ["{}", "", "https://provider-node.example.com", '{"name": "n"}', "p2p:12D3Koo"])
def test_metadata_of_the_seeds_examples_is_taken_with_a_hint(metadata: str) -> None:
    assert check_provider_metadata(metadata) == metadata
    assert "url" in (metadata_hint(metadata) or "")


async def test_arguments_are_checked_before_anything_is_asked(net: Net) -> None:
    async with net.client(1) as client:
        wrong: list[Any] = [
            lambda: client.gateways.register("", ""),
            lambda: client.gateways.register("x" * 65, ""),
            lambda: client.gateways.register("ü" * 33, ""),
            lambda: client.gateways.register("g", "x" * 1025),
            lambda: client.gateways.register("g\u200b", ""),
            lambda: client.gateways.register("g\n", ""),
            lambda: client.gateways.register("\ud800", ""),
            lambda: client.gateways.register("g", "\x1b[2J"),
            lambda: client.gateways.register(Unreadable(b"\xff"), ""),
            lambda: client.gateways.fund_lines("g", {"p": 0}),
            lambda: client.gateways.fund_lines("g", {"": 1}),
            lambda: client.escrow.reserve("", 1),
            lambda: client.escrow.thaw("g", 0),
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
        assert await client.escrow.free_of() == 5
        # Without a key, the same call is another deposit.
        await client.escrow.deposit(5)
        assert await client.escrow.free_of() == 10


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
        assert await client.escrow.free_of() == 60
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
        assert client.escrow.free_of() == 5
        with pytest.raises(UnknownProvider):
            client.providers.status("nobody")
        client.escrow.withdraw(5)
    with pytest.raises(ChainConfigError):
        client.epochs.current_epoch()
