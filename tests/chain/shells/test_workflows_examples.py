"""The seeds' two staking documents told from the first call to the last, with the calls of their own examples."""

from __future__ import annotations

from pathlib import Path

from chain.leaves import CheckpointLeaves
from chain.units import WEI_PER_FUNC
from tests.chain.shells.terminal import Terminal
from tests.chain.shells.test_workflows_provider import DELAY, URL, Terminals, publish, terminal
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC
FIRST, LAST = 10, 20
"""The epochs that the examples claim."""
SPAN = ("--from", str(FIRST), "--to", str(LAST))
PEER_ID = "12D3KooWD3bfmNbuuuVCYwkjnFt3ukm3qaB3hDED3peHHXawvRAi"
__all__ = ["terminal"]


async def two_epochs(
    net: Net, gateway: Terminal, identifier: str, model: int, units: dict[str, int], folder: Path
) -> list[Path]:
    """Work in the first and the last epoch of the examples, checkpointed by `gateway` and claimable; their leaves."""
    files = []
    async with net.client(None) as reader:
        for epoch in (FIRST, LAST):
            await net.to_epoch(reader, epoch + 1)
            file = folder / f"{epoch}.json"
            file.write_text(CheckpointLeaves(identifier, model, epoch, units).text(), encoding="utf-8")
            gateway.run("checkpoint", "post", str(file))
            files.append(file)
        await net.to_epoch(reader, LAST + DELAY)
        await net.mine()
    return files


async def test_the_provider_s_guide_from_registering_to_unstaking(
    any_net: Net, terminal: Terminals, tmp_path: Path
) -> None:
    creator, gateway, user = terminal(0), terminal(2), terminal(1)
    unused, model = publish(creator, "unused"), publish(creator)
    gateway.run("gateway-stake", "register", "g", "--stake", "1000")
    names = ("unique-provider-id", "unproven", "idle")
    assert "ProviderRegistered" in user.events(
        "provider", "register", names[0], "--model", str(model), "--metadata", "{}"
    )
    assert "ProviderStaked" in user.events("provider", "stake", names[0])
    for name in names[1:]:
        user.run("provider", "register", name, "--model", str(model), *URL, "--stake")
    before = dict.fromkeys(names[:2], 8_000)
    files = await two_epochs(any_net, gateway, "g", model, before, tmp_path)
    for file in files:
        user.run("checkpoint", "prove", str(file), names[0])
    # claimRewardsCluster(10, 20): all providers of the caller; two of them have nothing to claim yet.
    cluster = user.json("provider", "claim", *SPAN)
    assert "RewardClaimedForCluster" in {event["event"] for event in cluster["events"]}
    assert set(cluster["failed"]) == set(names[1:]) and cluster["amount_wei"] > 0
    # claimRewards("id", 10, 20): what failed is claimed by itself.
    for file in files:
        user.run("checkpoint", "prove", str(file), "unproven")
    alone = user.events("provider", "claim", "unproven", *SPAN)["ProviderClaimedRewards"]
    assert alone["amount"] > 0 and alone["owner"] == user.address
    assert "nothing to claim" in user.run("provider", "claim", "idle", *SPAN, fails=True)
    # Nobody has rated: the model that is used is listed before the one that is not.
    assert [each["model_id"] for each in user.json("model", "list")["models"]] == [model, unused]
    assert user.json("model", "show", str(model))["units"] == 32_000
    # unstakeProvider("unique-provider-id"): the lock ended long ago.
    assert user.events("provider", "unstake", names[0])["ProviderUnstaked"]["amount"] == 100 * FUNC


async def test_the_gateway_s_guide_from_registering_to_unstaking(
    any_net: Net, terminal: Terminals, tmp_path: Path
) -> None:
    creator, user = terminal(1), terminal(2)
    model = publish(creator)
    creator.run("provider", "register", "p", "--model", str(model), *URL, "--stake")
    name = "unique-gateway-id"
    registered = user.events("gateway-stake", "register", name, "--metadata", "My Gateway Metadata", "--stake", "1000")[
        "GatewayRegisteredAndStaked"
    ]
    assert registered["amount"] == 1000 * 10**18
    await two_epochs(any_net, user, name, model, {"p": 8_000}, tmp_path)
    # claimRewards("unique-gateway-id", 10, 20)
    claimed = user.events("gateway-stake", "claim", name, *SPAN)["GatewayClaimedRewards"]
    assert claimed["amount"] > 0 and claimed["owner"] == user.address
    # windDownGateways(["unique-gateway-id"]), the delay, unstakeForGateway("unique-gateway-id")
    end = user.events("gateway-stake", "wind-down", name)["GatewayWoundDown"]["wind_down_end"]
    async with any_net.client(None) as reader:
        await any_net.to_epoch(reader, end)
    # 8,000 units of a model of 8 blocks at 0.001 FUNC cost 1 FUNC an epoch; no voucher brought it in, so the stake did.
    assert user.events("gateway-stake", "unstake", name)["GatewayUnstaked"]["amount"] == 998 * FUNC


async def test_a_public_peer_id_is_a_provider_id(any_net: Net, terminal: Terminals) -> None:
    user = terminal(1)
    model = publish(user)
    user.run("provider", "register", PEER_ID, "--model", str(model), *URL, "--stake")
    assert user.json("provider", "status", PEER_ID)["active"]


async def test_who_has_too_little_func_stakes_nothing(any_net: Net, terminal: Terminals) -> None:
    user = terminal(2)
    said = user.run("gateway-stake", "register", "g", "--stake", "1000001", fails=True)
    assert "wei of FUNC and needs" in said and "ERC20InsufficientBalance" in said
    assert "no gateway is registered" in user.run("gateway-stake", "status", "g", fails=True)
    model = publish(terminal(1), stake="1000001")
    said = user.run("provider", "register", "p", "--model", str(model), *URL, "--stake", fails=True)
    assert "wei of FUNC and needs" in said and "ERC20InsufficientBalance" in said
