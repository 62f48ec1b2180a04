"""The seeds' workflows of gateways, step by step from the command line, on the embedded chain and on anvil."""

from __future__ import annotations

from pathlib import Path

from chain.contract_errors import (
    GatewayIdTaken,
    GatewayNotWoundDown,
    InvalidId,
    MetadataTooLong,
    StakeLocked,
    WindDownNotOver,
)
from chain.leaves import CheckpointLeaves
from chain.units import WEI_PER_FUNC
from tests.chain.shells.steps import decree
from tests.chain.shells.test_workflows_provider import DELAY, URL, Terminals, publish, refusal, terminal
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC
__all__ = ["terminal"]


# --- 1. Registering a gateway ---


async def test_a_gateway_registers_with_id_and_metadata(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    events = user.events("gateway-stake", "register", "unique-gateway-id", "--metadata", "My Gateway Metadata")
    registered = events["GatewayRegistered"]
    assert (registered["id"], registered["metadata"]) == ("unique-gateway-id", "My Gateway Metadata")
    status = user.json("gateway-stake", "status", "unique-gateway-id")
    assert status["whitelisted"] and status["owner"] == user.address and not status["active"]
    user.run("gateway-stake", "register", "without-metadata")
    assert "without-metadata" in user.run("gateway-stake", "status", "without-metadata")


async def test_a_gateway_id_is_unique_and_short_and_so_is_its_metadata(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    user.run("gateway-stake", "register", "g" * 64, "--metadata", "m" * 1024)
    assert "registered already" in user.run("gateway-stake", "register", "g" * 64, fails=True)
    assert "1 to 64 bytes" in user.run("gateway-stake", "register", "g" * 65, fails=True)
    assert "at most 1024 bytes" in user.run("gateway-stake", "register", "h", "--metadata", "m" * 1025, fails=True)
    register = "GatewayRegistry", "register"
    assert isinstance(await refusal(any_net, *register, "g" * 64, ""), GatewayIdTaken)
    assert isinstance(await refusal(any_net, *register, "g" * 65, ""), InvalidId)
    assert isinstance(await refusal(any_net, *register, "", ""), InvalidId)
    assert isinstance(await refusal(any_net, *register, "h", "m" * 1025), MetadataTooLong)


# --- 2. Staking FUNC for a gateway ---


async def test_register_and_stake_forwards_the_func_to_gateway_staking(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    said = user.run("gateway-stake", "register", "unique-gateway-id", "--metadata", "My Gateway", "--stake", "1000")
    assert "approved 1,000 FUNC for GatewayRegistry" in said and "GatewayRegisteredAndStaked" in said
    status = user.json("gateway-stake", "status", "unique-gateway-id")
    assert status["active"] and status["stake"] == status["effective_stake"] == 1000 * FUNC
    async with any_net.client(None) as reader:
        assert await reader.token.balance(any_net.deployment.address("GatewayStaking")) == 1000 * FUNC
        assert await reader.token.balance(any_net.deployment.address("GatewayRegistry")) == 0


async def test_a_registered_gateway_stakes_later_and_adds_to_its_stake(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    user.run("gateway-stake", "register", "g")
    staked = user.json("gateway-stake", "stake", "g", "150.5")
    assert len(staked["approvals"]) == 1
    assert {event["event"] for event in staked["events"]} >= {"GatewayStaked"}
    user.run("gateway-stake", "stake", "g", "49.5")
    assert user.json("gateway-stake", "status", "g")["stake"] == 200 * FUNC


# --- 3. and 4. Winding down and unstaking ---


async def test_a_gateway_is_wound_down_waited_for_and_unstaked(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    for name in ("unique-gateway-id", "another"):
        user.run("gateway-stake", "register", name, "--stake", "1000")
    assert "has not been wound down" in user.run("gateway-stake", "unstake", "unique-gateway-id", fails=True)
    events = user.events("gateway-stake", "wind-down", "unique-gateway-id", "another")
    clock = user.json("epoch", "status")
    end = events["GatewayWoundDown"]["wind_down_end"]
    assert end in (clock["epoch"] + clock["wind_down_delay"], clock["epoch"] + clock["wind_down_delay"] - 1)
    status = user.json("gateway-stake", "status", "unique-gateway-id")
    assert status["active"] and not status["eligible"]
    async with any_net.client(None) as reader:
        await any_net.mine(await reader.epochs.start_block(end) - 2 - await any_net.block())
        early = user.run("gateway-stake", "unstake", "unique-gateway-id", fails=True)
        assert f"lasts until epoch {end}" in early and "WindDownNotOver" in early
        await any_net.mine()
        before = await reader.token.balance(user.address)
        unstaked = user.events("gateway-stake", "unstake", "unique-gateway-id")["GatewayUnstaked"]
        assert unstaked["amount"] == 1000 * FUNC and unstaked["owner"] == user.address
        assert await reader.token.balance(user.address) == before + 1000 * FUNC


async def test_the_lock_of_the_stake_is_honoured_as_well_as_the_wind_down(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    async with any_net.client(0) as owner:
        await decree(owner, owner.epochs.set_min_epochs_locked(6))
        user.run("gateway-stake", "register", "g", "--stake", "1000")
        user.run("gateway-stake", "wind-down", "g")
        status = user.json("gateway-stake", "status", "g")
        assert status["unlock_epoch"] > status["wind_down_end"]
        await any_net.to_epoch(owner, status["wind_down_end"])
        await any_net.mine()
        assert f"locked until epoch {status['unlock_epoch']}" in user.run("gateway-stake", "unstake", "g", fails=True)
        await any_net.to_epoch(owner, status["unlock_epoch"])
        user.run("gateway-stake", "unstake", "g")


async def test_a_wind_down_can_be_taken_back(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    user.run("gateway-stake", "register", "g", "--stake", "1000")
    user.run("gateway-stake", "wind-down", "g")
    user.run("gateway-stake", "restart", "g")
    status = user.json("gateway-stake", "status", "g")
    assert status["active"] and status["wind_down_end"] == 0


async def test_the_order_of_reasons_why_a_gateway_cannot_unstake(any_net: Net) -> None:
    async with any_net.client(2) as client:
        await client.gateways.register_and_stake("g", "", 1000 * FUNC)
        unstake = [("GatewayStaking", "unstakeForGateway", ("g",))]
        assert isinstance((await client.core.try_views(unstake))[0], GatewayNotWoundDown)
        await client.gateways.wind_down_gateways(["g"])
        assert isinstance((await client.core.try_views(unstake))[0], WindDownNotOver)
        async with any_net.client(0) as owner:
            for epochs in (6, 12):  # at most twice what it is
                await decree(owner, owner.epochs.set_min_epochs_locked(epochs))
        await client.gateways.restart_gateway("g")
        await client.gateways.stake_for_gateway("g", FUNC)
        await client.gateways.wind_down_gateways(["g"])
        end = (await client.gateways.status("g")).wind_down_end
        await any_net.to_epoch(client, end)
        await any_net.mine()
        assert isinstance((await client.core.try_views(unstake))[0], StakeLocked)


# --- 5. Claiming rewards ---


async def test_a_gateway_claims_its_share_of_the_fees_after_the_delay(
    any_net: Net, terminal: Terminals, tmp_path: Path
) -> None:
    creator, user = terminal(1), terminal(2)
    model = publish(creator)
    creator.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    user.run("gateway-stake", "register", "unique-gateway-id", "--stake", "1000")
    async with any_net.client(None) as reader:
        epoch = await any_net.next_epoch(reader)
        await any_net.to_epoch(reader, epoch + 1)
        file = tmp_path / "leaves.json"
        leaves = CheckpointLeaves("unique-gateway-id", model, epoch, {"p": 80_000})
        file.write_text(leaves.text(), encoding="utf-8")
        posted = user.events("checkpoint", "post", str(file))["CheckpointPosted"]
        assert posted["data_hash"] == "0x" + leaves.data_hash().hex()
        assert user.json("checkpoint", "show", str(file))["same"]
        span = ("--from", str(epoch), "--to", str(epoch))
        assert "not claimable yet" in user.run("gateway-stake", "claim", "unique-gateway-id", *span, fails=True)
        await any_net.to_epoch(reader, epoch + DELAY)
        await any_net.mine()
        due = user.json("gateway-stake", "status", "unique-gateway-id")["rewards"]
        assert due == posted["total_fees"] // 10
        claimed = user.events("gateway-stake", "claim", "unique-gateway-id", *span)["GatewayClaimedRewards"]
        assert claimed["amount"] == due and claimed["owner"] == user.address
        assert "nothing to claim" in user.run("gateway-stake", "claim", "unique-gateway-id", *span, fails=True)


# --- Gateway active status ---


async def test_a_gateway_is_active_when_all_four_conditions_hold(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)

    def active() -> bool:
        return bool(user.json("gateway-stake", "status", "g")["active"])

    assert "no gateway is registered" in user.run("gateway-stake", "status", "g", fails=True)  # 1: registered
    user.run("gateway-stake", "register", "g")
    status = user.json("gateway-stake", "status", "g")
    assert status["overdrawn"] and not status["active"]  # 3: effective stake not overdrawn
    user.run("gateway-stake", "stake", "g", "99")
    status = user.json("gateway-stake", "status", "g")
    assert status["active"] and not status["eligible"]  # what this network asks beyond the seeds: the least stake
    user.run("gateway-stake", "stake", "g", "1")
    assert active() and user.json("gateway-stake", "status", "g")["eligible"]
    user.run("gateway-stake", "deactivate", "g")  # 2: not deactivated
    assert not active()
    user.run("gateway-stake", "reactivate", "g")
    assert active()
    async with any_net.client(0) as owner:
        await decree(owner, owner.gateways.set_whitelisted("g", False))  # 4: whitelisted
        assert not active()
        await decree(owner, owner.gateways.set_whitelisted("g", True))
        assert active()


async def test_without_auto_whitelist_a_gateway_waits_for_the_owner(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    async with any_net.client(0) as owner:
        await decree(owner, owner.gateways.set_auto_whitelist(False))
        # Nobody's stake is locked while its owner cannot be active.
        said = user.run("gateway-stake", "register", "g", "--stake", "1000", fails=True)
        assert "register without a stake" in said and "AutoWhitelistOff" in said
        user.run("gateway-stake", "register", "g")
        user.run("gateway-stake", "stake", "g", "1000")
        assert not user.json("gateway-stake", "status", "g")["active"]
        await decree(owner, owner.gateways.set_whitelisted("g", True))
        assert user.json("gateway-stake", "status", "g")["active"]


# --- What this network adds: lines, credit, signers, transfers to the registry ---


async def test_a_gateway_guarantees_a_line_to_a_provider_and_takes_it_back(any_net: Net, terminal: Terminals) -> None:
    creator, user = terminal(1), terminal(2)
    model = publish(creator)
    creator.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    user.run("gateway-stake", "register", "g", "--stake", "300")
    assert "guarantees nothing" in user.run("gateway-stake", "lines", "g")
    assert user.events("gateway-stake", "fund-line", "g", "p", "150")["LineFunded"]["total"] == 150 * FUNC
    said = user.run("gateway-stake", "fund-line", "g", "p", "51", fails=True)
    assert "of the stake are spare: stake more" in said and "InsufficientStake" in said
    assert "no provider is registered" in user.run("gateway-stake", "fund-line", "g", "nobody", "1", fails=True)
    status = user.json("gateway-stake", "status", "g")
    assert (status["reserved"], status["effective_stake"], status["active"]) == (150 * FUNC, 150 * FUNC, True)
    end = user.events("gateway-stake", "thaw-line", "g", "p", "150")["LineThawing"]["thaw_end"]
    shown = user.json("gateway-stake", "lines", "g")
    assert shown["spare"] == 50 * FUNC and shown["lines"][0]["guaranteed"] == 0
    assert f"until epoch {end}" in user.run("gateway-stake", "lines", "g")
    assert f"until epoch {end}" in user.run("gateway-stake", "release-line", "g", "p", fails=True)
    async with any_net.client(None) as reader:
        await any_net.to_epoch(reader, end)
    assert user.events("gateway-stake", "release-line", "g", "p")["LineReleased"]["amount"] == 150 * FUNC


async def test_a_gateway_with_open_lines_is_told_to_release_them(any_net: Net, terminal: Terminals) -> None:
    creator, user = terminal(1), terminal(2)
    model = publish(creator)
    creator.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    user.run("gateway-stake", "register", "g", "--stake", "300")
    user.run("gateway-stake", "fund-line", "g", "p", "5")
    end = user.events("gateway-stake", "wind-down", "g")["GatewayWoundDown"]["wind_down_end"]
    async with any_net.client(None) as reader:
        await any_net.to_epoch(reader, end)
        await any_net.mine()
    said = user.run("gateway-stake", "unstake", "g", fails=True)
    assert "thaw and release the lines first" in said and "LinesOpen" in said


async def test_a_gateway_s_credit_is_topped_up_shown_thawed_and_withdrawn(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    user.run("gateway-stake", "register", "g", "--stake", "300")
    user.run("gateway-stake", "top-up-credit", "g", "7")
    end = user.events("gateway-stake", "thaw-credit", "g", "5")["GatewayCreditThawing"]["thaw_end"]
    shown = user.json("gateway-stake", "credit", "g")
    assert (shown["amount"], shown["thawing"], shown["thaw_end"], shown["debt"]) == (7 * FUNC, 5 * FUNC, end, 0)
    assert f"from epoch {end} on" in user.run("gateway-stake", "credit", "g")
    assert f"thaws until epoch {end}" in user.run("gateway-stake", "withdraw-credit", "g", fails=True)
    async with any_net.client(None) as reader:
        await any_net.to_epoch(reader, end)
    withdrawn = user.events("gateway-stake", "withdraw-credit", "g")["GatewayCreditWithdrawn"]
    assert (withdrawn["amount"], withdrawn["owner"]) == (5 * FUNC, user.address)


async def test_another_key_signs_for_a_gateway_once_it_has_agreed(any_net: Net, terminal: Terminals) -> None:
    user, signer = terminal(2), terminal(4)
    user.run("gateway-stake", "register", "g")
    said = user.run("gateway-stake", "set-signer", "g", signer.address, fails=True)
    assert "not by the signer" in said
    consent = signer.json("gateway-stake", "consent", "g", "--owner", user.address)["consent"]
    assert "130 hex digits" in user.run(
        "gateway-stake", "set-signer", "g", signer.address, "--consent", "0x12", fails=True
    )
    events = user.events("gateway-stake", "set-signer", "g", signer.address, "--consent", consent)
    assert events["GatewaySignerUpdated"]["signer"] == signer.address


async def test_func_sent_to_the_registry_is_staked_first_and_the_rest_comes_back(
    any_net: Net, terminal: Terminals
) -> None:
    user = terminal(2)
    async with any_net.client(2) as client:
        registry = any_net.deployment.address("GatewayRegistry")
        await client.token.transfer(registry, 150 * FUNC)
        answer = user.json("gateway-stake", "register", "g", "--stake", "120")
        assert answer["approvals"] == [] and await client.gateways.sent_to() == 30 * FUNC
        said = user.run("gateway-stake", "register", "h", "--stake", "100")
        assert "approved 70 FUNC for GatewayRegistry" in said
        await client.token.transfer(registry, 9 * FUNC)
        assert user.events("gateway-stake", "return-sent")["SentReturned"]["amount"] == 9 * FUNC
        assert "nothing to claim" in user.run("gateway-stake", "return-sent", fails=True)
        assert await client.token.balance(registry) == 0
