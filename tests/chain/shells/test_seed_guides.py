"""Both staking guides of the seeds typed word for word: every example as it is written there, on both chains."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from chain.client.actions import Result
from chain.client.staking import StakingClient
from chain.contract_errors import NothingToClaim
from chain.leaves import CheckpointLeaves
from chain.units import WEI_PER_FUNC
from tests.chain.shells.steps import names, publish
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC
STAKE = 1000 * 10**18
DELAY = 4


def literal(node: ast.expr) -> Any:
    """A value as the guides write them: text, numbers, lists, products and powers."""
    if isinstance(node, ast.BinOp):
        left, right = literal(node.left), literal(node.right)
        return left**right if isinstance(node.op, ast.Pow) else left * right
    if isinstance(node, ast.List):
        return [literal(each) for each in node.elts]
    assert isinstance(node, ast.Constant)
    return node.value


async def typed(client: StakingClient, contract: str, text: str, *, at: str | None = None) -> Result:
    """Send a call as a guide writes it, with nothing added or checked."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    encoded = client.core.call(contract, call.func.id, *[literal(each) for each in call.args], at=at)
    return client.core.spending.result(await client.transactor.send(encoded))


async def two_epochs(net: Net, gateway: StakingClient, name: str, model: int, providers: list[str]) -> None:
    """Work of each provider in epochs 10 and 20, posted by a gateway, proven, and claimable."""
    posted = []
    for epoch in (10, 20):
        await net.to_epoch(gateway, epoch + 1)
        leaves = CheckpointLeaves(name, model, epoch, dict.fromkeys(providers, 8_000))
        await gateway.settlement.post_tree(leaves.tree(), leaves.data_hash())
        posted.append(leaves)
    await net.to_epoch(gateway, 20 + DELAY)
    for leaves in posted:
        for each in providers:
            await gateway.settlement.prove_contribution_for(name, each, leaves.epoch, *leaves.proof(each))


async def test_compute_providers_typed_word_for_word(any_net: Net) -> None:
    async with any_net.client(0) as creator, any_net.client(1) as user, any_net.client(2) as gateway:
        assert await publish(creator) == 1
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        # Steps 1A. «Always approve FUNC transfers before staking.»
        registered = await typed(user, "ProviderRegistry", 'register("unique-provider-id", 1, "{}")')
        assert names(registered.events) == ["ProviderRegistered"]
        pool = await user.core.pool(1)  # Router.stakingPool
        await user.token.approve(pool, await user.core.view("ModelRegistry", "modelStakeAmount", 1))
        staked = await typed(user, "ProviderStaking", 'stakeForProvider("unique-provider-id")', at=pool)
        assert names(staked.events) == ["ProviderStaked"]
        assert await user.core.view("ProviderRegistry", "isActive", "unique-provider-id")
        # Steps 1B, of another provider, as an id is taken once.
        await user.token.approve(any_net.deployment.address("ProviderRegistry"), 100 * FUNC)
        both = await typed(user, "ProviderRegistry", 'registerAndStake("id", 1, "{}")')
        assert names(both.events) == ["ProviderRegistered", "ProviderStaked", "ProviderRegisteredAndStaked"]
        assert await user.core.view("ProviderRegistry", "isActive", "id")
        # 4, steps 1A, then 1B.
        await two_epochs(any_net, gateway, "g", 1, ["unique-provider-id"])
        cluster = await typed(user, "ProviderRegistry", "claimRewardsCluster(10, 20)")
        claimed = cluster.event("RewardClaimedForCluster").arguments
        assert claimed.amount > 0 and claimed.failed == ["id"]
        with pytest.raises(NothingToClaim):  # it has not worked; in the next test it has
            await typed(user, "ProviderStaking", 'claimRewards("id", 10, 20)', at=pool)
        # 3.
        before = await user.token.balance()
        unstaked = await typed(user, "ProviderStaking", 'unstakeProvider("unique-provider-id")', at=pool)
        assert names(unstaked.events) == ["ProviderUnstaked"]
        assert await user.token.balance() == before + 100 * FUNC


async def test_staking_workflows_of_providers_typed_word_for_word(any_net: Net) -> None:
    async with any_net.client(0) as creator, any_net.client(1) as user, any_net.client(2) as gateway:
        assert await publish(creator) == 1
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        text = 'register("unique-provider-id", 1, "https://provider-node.example.com")'
        registered = await typed(user, "ProviderRegistry", text)
        assert registered.event("ProviderRegistered").arguments.metadata == "https://provider-node.example.com"
        await user.token.approve(any_net.deployment.address("ProviderRegistry"), 100 * FUNC)
        text = 'registerAndStake("id", 1, "https://provider-node.example.com")'
        staked = await typed(user, "ProviderRegistry", text)
        assert staked.event("ProviderRegisteredAndStaked").arguments.amount == 100 * FUNC
        assert await user.core.view("ProviderRegistry", "isActive", "id")
        await two_epochs(any_net, gateway, "g", 1, ["id"])
        pool = await user.core.pool(1)
        claimed = await typed(user, "ProviderStaking", 'claimRewards("id", 10, 20)', at=pool)
        assert claimed.event("ProviderClaimedRewards").arguments.amount > 0


async def test_staking_workflows_of_gateways_typed_word_for_word(any_net: Net) -> None:
    async with any_net.client(0) as creator, any_net.client(2) as user, any_net.client(1) as provider:
        model = await publish(creator)
        await provider.providers.register_and_stake("p", model, '{"url":"https://p.example"}')
        # 1. Registering, as another gateway: the example of 2 registers the same id again.
        before = await any_net.snapshot()
        registered = await typed(user, "GatewayRegistry", 'register("unique-gateway-id", "My Gateway Metadata")')
        assert names(registered.events)[0] == "GatewayRegistered"
        assert await user.core.view("GatewayRegistry", "autoWhitelist")
        assert (await user.gateways.status("unique-gateway-id")).whitelisted
        await any_net.revert(before)
    async with any_net.client(2) as user:
        # 2. «Transfer FUNC tokens to the GatewayRegistry contract», then registerAndStake: no approval is needed.
        registry = any_net.deployment.address("GatewayRegistry")
        await user.token.transfer(registry, STAKE)
        text = 'registerAndStake("unique-gateway-id", "My Gateway Metadata", 1000 * 10**18)'
        staked = await typed(user, "GatewayRegistry", text)
        assert staked.event("GatewayRegisteredAndStaked").arguments.amount == STAKE
        assert await user.token.balance(any_net.deployment.address("GatewayStaking")) == STAKE
        assert await user.token.balance(registry) == 0
        assert await user.core.view("GatewayRegistry", "isActive", "unique-gateway-id")
        # 5. Claiming.
        await two_epochs(any_net, user, "unique-gateway-id", model, ["p"])
        claimed = await typed(user, "GatewayStaking", 'claimRewards("unique-gateway-id", 10, 20)')
        assert claimed.event("GatewayClaimedRewards").arguments.amount > 0
        # 3. and 4.
        wound = await typed(user, "GatewayStaking", 'windDownGateways(["unique-gateway-id"])')
        await any_net.to_epoch(user, wound.event("GatewayWoundDown").arguments.wind_down_end)
        left = (await user.gateways.status("unique-gateway-id")).stake
        before_balance = await user.token.balance()
        unstaked = await typed(user, "GatewayStaking", 'unstakeForGateway("unique-gateway-id")')
        assert unstaked.event("GatewayUnstaked").arguments.amount == left
        assert await user.token.balance() == before_balance + left


async def test_func_approved_instead_of_transferred_is_staked_as_well(any_net: Net) -> None:
    async with any_net.client(2) as user:
        await user.token.approve(any_net.deployment.address("GatewayRegistry"), STAKE)
        text = 'registerAndStake("unique-gateway-id", "My Gateway Metadata", 1000 * 10**18)'
        staked = await typed(user, "GatewayRegistry", text)
        assert staked.event("GatewayRegisteredAndStaked").arguments.amount == STAKE
