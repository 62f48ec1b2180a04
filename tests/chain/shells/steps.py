"""What tests of the staking client do again and again."""

from __future__ import annotations

from chain.abi import Event
from chain.client.calls.providers import provider_metadata
from chain.client.staking import StakingClient
from chain.units import WEI_PER_FUNC

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
