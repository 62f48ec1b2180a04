"""From keys to ids: the contracts keep parties by the hash of their id; the event of a registration has the id."""

from __future__ import annotations

from collections.abc import Sequence

from chain.client.core import Core


async def gateway_ids(core: Core, keys: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The id of each gateway's key, with the key: ids that cannot be shown may look alike."""
    return [(await _id(core, "GatewayRegistry", "GatewayRegistered", key), key) for key in keys]


async def provider_ids(core: Core, keys: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The id of each provider's key, with the key."""
    return [(await _id(core, "ProviderRegistry", "ProviderRegistered", key), key) for key in keys]


async def _id(core: Core, contract: str, event: str, key: bytes) -> str:
    async for found in core.events(contract, event, topics=("0x" + key.hex(),)):
        identifier: str = found.arguments.id
        return identifier
    return "0x" + key.hex()
