"""The seeds' workflows of providers, step by step from the command line, on the embedded chain and on anvil."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chain.client.staking import StakingClient
from chain.contract_errors import (
    InvalidId,
    MetadataTooLong,
    ProviderIdTaken,
    RewardsNotReady,
    UnknownModel,
)
from chain.deploy import Parameters
from chain.leaves import CheckpointLeaves
from chain.units import WEI_PER_FUNC
from tests.chain.shells.steps import decree
from tests.chain.shells.terminal import Terminal
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC
STAKE = 100 * FUNC
MANIFEST = "0x" + "07" * 32
DELAY = Parameters().epoch_reward_delay
Terminals = Callable[[int], Terminal]
"""From a well-known account to its terminal."""
URL = ("--url", "https://provider-node.example.com")


@pytest.fixture
def terminal(any_net: Net, tmp_path: Path) -> Terminals:
    """Terminals of the well-known accounts."""
    known: dict[int, Terminal] = {}

    def make(account: int) -> Terminal:
        if account not in known:
            known[account] = Terminal(any_net, tmp_path / str(account), account)
        return known[account]

    return make


def publish(creator: Terminal, name: str = "model", stake: str = "100", price: str = "0.001") -> int:
    events = creator.events(
        "model", "publish", name, "--manifest", MANIFEST, "--blocks", "8", "--price", price, "--stake", stake
    )
    return int(events["ModelCreated"]["model_id"])


async def refusal(net: Net, contract: str, function: str, *arguments: object) -> Exception:
    """What a contract itself says to a call that our side would not even send."""
    async with net.client(1) as client:
        (answer,) = await client.core.try_views([(contract, function, arguments)])
        assert isinstance(answer, Exception), answer
        return answer


# --- 1. Registering a provider ---


async def test_a_provider_registers_with_id_model_and_metadata(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    events = user.events("provider", "register", "unique-provider-id", "--model", str(model), *URL, "--name", "node")
    registered = events["ProviderRegistered"]
    assert (registered["id"], registered["model_id"], registered["owner"]) == (
        "unique-provider-id",
        model,
        user.address,
    )
    assert registered["metadata"] == '{"url":"https://provider-node.example.com","name":"node"}'
    status = user.json("provider", "status", "unique-provider-id")
    assert status["whitelisted"] and not status["active"] and status["stake"] == 0
    assert "unique-provider-id" in user.run("provider", "status", "unique-provider-id")


async def test_a_provider_id_is_unique_and_has_at_most_64_bytes(any_net: Net, terminal: Terminals) -> None:
    user, other = terminal(1), terminal(2)
    model = publish(user)
    longest = "ü" * 32
    user.events("provider", "register", longest, "--model", str(model), *URL)
    assert "registered already" in other.run("provider", "register", longest, "--model", str(model), *URL, fails=True)
    assert "1 to 64 bytes, this one 65" in user.run(
        "provider", "register", "x" * 65, "--model", str(model), *URL, fails=True
    )
    assert isinstance(await refusal(any_net, "ProviderRegistry", "register", longest, model, "{}"), ProviderIdTaken)
    too_long = await refusal(any_net, "ProviderRegistry", "register", "x" * 65, model, "{}")
    assert isinstance(too_long, InvalidId) and too_long.length == 65


async def test_metadata_is_json_with_a_url_and_at_most_1024_bytes(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    register = ("provider", "register", "p", "--model", str(model), "--metadata")
    for wrong in ("my node", '{"url": 5}', '{"url": "x", "name": 1}', '{"url": "' + "x" * 1100 + '"}'):
        assert "metadata" in user.run(*register, wrong, fails=True)
    user.run(*register, '{"url": "https://a.example"}')
    assert user.heard == ""
    too_long = await refusal(any_net, "ProviderRegistry", "register", "q", model, "x" * 1025)
    assert isinstance(too_long, MetadataTooLong) and too_long.length == 1025


async def test_metadata_without_a_url_is_taken_with_a_hint(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    register = ("provider", "register", "p", "--model", str(model), "--metadata")
    user.run(*register, "{}")
    assert "peers cannot find a node without a url" in user.heard
    user.run("provider", "update", "p", "https://provider-node.example.com")
    assert '{"url":"https://provider-node.example.com"}' in user.heard
    assert user.json("provider", "status", "p")["metadata"] == "https://provider-node.example.com"


async def test_a_provider_is_linked_to_a_model_that_there_is(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    assert "there is no model 99" in user.run("provider", "register", "p", "--model", "99", *URL, fails=True)
    assert isinstance(await refusal(any_net, "ProviderRegistry", "register", "p", 99, "{}"), UnknownModel)


async def test_one_owner_s_providers_may_serve_several_models(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    models = [publish(user, name) for name in ("one", "two")]
    for model in models:
        user.run("provider", "register", f"p{model}", "--model", str(model), *URL, "--stake")
    assert [user.json("provider", "status", f"p{model}")["model_id"] for model in models] == models
    pools = {user.json("provider", "status", f"p{model}")["pool"] for model in models}
    assert len(pools) == 2


# --- 2. Staking FUNC for a provider ---


async def test_staking_goes_through_the_router_s_pool_after_an_approval(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    user.run("provider", "register", "p", "--model", str(model), *URL)
    said = user.run("provider", "stake", "p")
    assert "approved 100 FUNC for ProviderStaking" in said and "ProviderStaked" in said
    status = user.json("provider", "status", "p")
    assert status["active"] and status["stake"] == status["needed_stake"] == STAKE
    async with any_net.client(None) as reader:
        assert status["pool"] == await reader.core.view("Router", "stakingPool", model)
        assert await reader.token.balance(status["pool"]) == STAKE
        assert await reader.models.model_stake_amount(model) == STAKE


async def test_register_and_stake_does_both_at_once(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    answer = user.json("provider", "register", "p", "--model", str(model), *URL, "--stake")
    events = {event["event"]: event for event in answer["events"]}
    assert len(answer["approvals"]) == 1
    assert {"ProviderRegistered", "ProviderStaked", "ProviderRegisteredAndStaked"} <= set(events)
    assert events["ProviderRegisteredAndStaked"]["amount"] == STAKE
    assert user.json("provider", "status", "p")["active"]


async def test_a_dry_run_tells_the_gas_and_sends_nothing(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    dry = user.json("provider", "register", "p", "--model", str(model), *URL, "--stake", "--dry-run")
    assert [step["call"] for step in dry["steps"]] == ["FuncToken.approve", "ProviderRegistry.registerAndStake"]
    assert dry["gas"] > 300_000 and dry["cost_wei"] > 0
    assert "no provider is registered" in user.run("provider", "status", "p", fails=True)


# --- 3. Unstaking a provider ---


async def test_a_stake_comes_back_to_its_owner_after_the_lock(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    user.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    status = user.json("provider", "status", "p")
    locked = user.json("epoch", "status")["min_epochs_locked"]
    assert status["unlock_epoch"] >= status["epoch"] + locked
    async with any_net.client(None) as reader:
        await any_net.to_epoch(reader, status["unlock_epoch"])
        before = await reader.token.balance(user.address)
    assert "ProviderUnstaked" in user.events("provider", "unstake", "p")
    async with any_net.client(None) as reader:
        assert await reader.token.balance(user.address) == before + STAKE
    assert not user.json("provider", "status", "p")["active"]


async def test_before_the_lock_is_over_nothing_can_be_unstaked(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    user.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    unlock = user.json("provider", "status", "p")["unlock_epoch"]
    async with any_net.client(None) as reader:
        await any_net.mine(await reader.epochs.start_block(unlock) - 2 - await any_net.block())
        assert f"locked until epoch {unlock}" in user.run("provider", "unstake", "p", fails=True)
        await any_net.mine()
        user.run("provider", "unstake", "p")


# --- 4. Claiming rewards ---


async def work(net: Net, gateway: StakingClient, model: int, units: dict[str, int], folder: Path) -> tuple[int, Path]:
    """An epoch's work of some providers, checkpointed and claimable; its number, and the file of its leaves."""
    epoch = await net.next_epoch(gateway)
    await net.to_epoch(gateway, epoch + 1)
    leaves = CheckpointLeaves("g", model, epoch, units)
    await gateway.settlement.post_tree(leaves.tree(), leaves.data_hash())
    file = folder / f"{epoch}.json"
    file.write_text(leaves.text(), encoding="utf-8")
    await net.to_epoch(gateway, epoch + DELAY)
    await net.mine()
    return epoch, file


async def test_rewards_are_claimed_for_a_provider_or_for_all_of_an_owner(
    any_net: Net, terminal: Terminals, tmp_path: Path
) -> None:
    user = terminal(1)
    model = publish(user)
    for name in ("p", "q", "idle"):
        user.run("provider", "register", name, "--model", str(model), *URL, "--stake")
    async with any_net.client(2) as gateway:
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        epoch, file = await work(any_net, gateway, model, {"p": 8_000, "q": 24_000}, tmp_path)
        for name in ("p", "q"):
            assert "ContributionProven" in user.events("checkpoint", "prove", str(file), name)
        reward = user.json("provider", "status", "p")["rewards"]
        assert reward > 0
        # 1B: one provider, a range of epochs.
        claimed = user.events("provider", "claim", "p", "--from", str(epoch), "--to", str(epoch))
        assert claimed["ProviderClaimedRewards"]["amount"] == reward
        assert "nothing to claim" in user.run("provider", "claim", "p", "--to", str(epoch), fails=True)
        # 1A: all of the owner's; one that fails is reported and does not stop the others.
        cluster = user.json("provider", "claim", "--from", str(epoch), "--to", str(epoch))
        assert cluster["amount_wei"] == 3 * reward
        assert set(cluster["failed"]) == {"p", "idle"}
        assert "RewardClaimedForCluster" in {event["event"] for event in cluster["events"]}


async def test_rewards_are_claimable_only_after_the_delay_and_never_expire(
    any_net: Net, terminal: Terminals, tmp_path: Path
) -> None:
    user = terminal(1)
    model = publish(user)
    user.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    async with any_net.client(2) as gateway:
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        epoch, file = await work(any_net, gateway, model, {"p": 8_000}, tmp_path)
        user.run("checkpoint", "prove", str(file), "p")
        clock = user.json("epoch", "status")
        assert clock["claimable_epoch"] == clock["epoch"] - clock["reward_delay"] == epoch
        late = user.run("provider", "claim", "p", "--from", str(epoch), "--to", str(epoch + 1), fails=True)
        assert f"ready through epoch {epoch}" in late
        await any_net.mine(600)
        events = user.events("provider", "claim", "p", "--from", str(epoch), "--to", str(epoch))
        assert events["ProviderClaimedRewards"]["amount"] > 0


async def test_the_first_block_in_which_an_epoch_is_claimable(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    user.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    async with any_net.client(1) as client:
        epoch = await any_net.next_epoch(client)
        start = await client.epochs.start_block(epoch + DELAY)
        await any_net.mine(start - 1 - await any_net.block())
        pool = (await client.providers.status("p")).pool
        (early,) = await client.core.try_views([("ProviderStaking", "claimRewards", ("p", epoch, epoch))], at=pool)
        assert isinstance(early, RewardsNotReady) and (early.to_epoch, early.claimable_to) == (epoch, epoch - 1)
        await any_net.mine()
        (now,) = await client.core.try_views([("ProviderStaking", "claimRewards", ("p", epoch, epoch))], at=pool)
        assert type(now).__name__ == "NothingToClaim"


# --- Provider active status ---


async def test_a_provider_is_active_when_all_five_conditions_hold(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)

    def active() -> bool:
        return bool(user.json("provider", "status", "p")["active"])

    assert "no provider is registered" in user.run("provider", "status", "p", fails=True)  # 1: registered
    user.run("provider", "register", "p", "--model", str(model), *URL)
    assert not active()  # 3: staked enough
    user.run("provider", "stake", "p")
    assert active()
    user.run("provider", "deactivate", "p")  # 2: not deactivated
    assert not active()
    user.run("provider", "reactivate", "p")
    assert active()
    async with any_net.client(0) as owner:  # 4: whitelisted
        await decree(owner, owner.providers.set_whitelisted("p", False))
        assert not active()
        await decree(owner, owner.providers.set_whitelisted("p", True))
        assert active()
    user.run("model", "disable", str(model))  # 5: its model is enabled
    assert not active()
    user.run("model", "enable", str(model))
    assert active()


async def test_without_auto_whitelist_a_provider_waits_for_the_owner(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    async with any_net.client(0) as owner:
        await decree(owner, owner.providers.set_auto_whitelist(False))
        # Steps 1B are for when it is on: else a stake would be locked for nothing.
        register = ("provider", "register", "p", "--model", str(model), *URL)
        assert "register without a stake" in user.run(*register, "--stake", fails=True)
        user.run(*register)
        user.run("provider", "stake", "p")
        assert not user.json("provider", "status", "p")["active"]
        await decree(owner, owner.providers.set_whitelisted("p", True))
        assert user.json("provider", "status", "p")["active"]
