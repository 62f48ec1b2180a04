"""What tests of the staking client do again and again."""

from __future__ import annotations

from typing import Any

from eth_abi import abi as eth_abi
from eth_utils import keccak

from chain.abi import Event
from chain.client.actions import Action, Result
from chain.client.calls.providers import provider_metadata
from chain.client.pending import Call
from chain.client.staking import StakingClient
from chain.leaves import CheckpointLeaves
from chain.units import WEI_PER_FUNC
from tests.chain.shells.world import Net

FUNC = WEI_PER_FUNC
STAKE = 100 * FUNC
METADATA = provider_metadata("https://node.example", "node")


async def publish(client: StakingClient, name: str = "model", price: int = 10**15) -> int:
    result = await client.models.create_model(
        name, b"\x07" * 32, "ipfs://about", blocks=8, price_per_token=price, royalty_bps=500, model_stake_amount=STAKE
    )
    return int(result.event("ModelCreated").arguments.model_id)


async def decree(owner: StakingClient, setting: Action) -> Result:
    """What the contracts' owner does, through the timelock; without a delay on the chains of these tests."""
    await owner.owner.schedule(setting)
    return await owner.owner.execute(setting)


async def work(
    net: Net, gateway: StakingClient, gateway_id: str, model: int, units: dict[str, int]
) -> tuple[int, CheckpointLeaves]:
    """An epoch's work of some providers, posted in the epoch after it; its number and its leaves."""
    epoch = await net.next_epoch(gateway)
    await net.to_epoch(gateway, epoch + 1)
    leaves = CheckpointLeaves(gateway_id, model, epoch, units)
    await gateway.settlement.post_tree(leaves.tree(), leaves.data_hash())
    return epoch, leaves


def names(events: tuple[Event, ...]) -> list[str]:
    return [event.name for event in events if event.name not in ("Transfer", "Approval")]


async def raw(client: StakingClient, contract: str, signature: str, *arguments: Any) -> None:
    """Send a call whose strings are any bytes; each transaction is waited for."""
    kinds = signature[signature.index("(") + 1 : -1].replace("string", "bytes").split(",")
    data = keccak(text=signature)[:4] + eth_abi.encode(kinds, arguments)
    await client.transactor.send(Call(client.deployment.address(contract), data, signature.partition("(")[0]))
