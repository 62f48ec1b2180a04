"""What strangers write on the chain: names and metadata that are no text, or text that commands a terminal."""

from __future__ import annotations

import asyncio

from chain.client.staking import StakingClient
from chain.units import WEI_PER_FUNC
from tests.chain.shells import hostile
from tests.chain.shells.steps import raw

NAMES = tuple(dict.fromkeys(hostile.NAMES))
DOCUMENTS = tuple(dict.fromkeys(hostile.DOCUMENTS))
CREATE = "createModel(string,bytes32,string,uint32,uint128,uint16,uint128)"
GATEWAYS = 6
PAUSE_SECONDS = 0.05
"""Between two transactions: strangers pay for each, and the machine is the swarm's too."""


async def stake_gateways(client: StakingClient) -> list[str]:
    """Strangers' gateways with the least stake, so that others read what they say of themselves."""
    least = int(await client.core.view("GatewayStaking", "minGatewayStake"))
    ids = [f"strange-{number}" for number in range(GATEWAYS)]
    for each in ids:
        await client.gateways.register_and_stake(each, "", max(least, WEI_PER_FUNC))
    return ids


async def write_all(client: StakingClient, gateways: list[str], providers: list[str]) -> int:
    """Models with every name and every document, ids that are no text, and metadata that changes; how many strings."""
    written = set[tuple[str, bytes]]()
    for number, name in enumerate(NAMES):
        document = DOCUMENTS[number % len(DOCUMENTS)]
        await raw(client, "ModelRegistry", CREATE, name, b"\x01" * 32, document, 1, 1, 0, 1)
        written |= {("name", name), ("document", document)}
        if number % 3 == 0:
            await raw(client, "GatewayRegistry", "register(string,string)", name, document)
        if number % 4 == 0:
            gateway, provider = gateways[number % len(gateways)], providers[number % len(providers)]
            await raw(client, "GatewayRegistry", "updateMetadata(string,string)", gateway.encode(), document)
            await raw(client, "ProviderRegistry", "updateMetadata(string,string)", provider.encode(), document)
        await asyncio.sleep(PAUSE_SECONDS)
    return len(written)
