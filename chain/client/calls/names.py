"""From keys to ids: the contracts keep parties by the hash of their id; the event of a registration has the id."""

from __future__ import annotations

from collections.abc import Sequence

from chain.client.core import Core
from chain.text import Unreadable


async def gateway_ids(core: Core, keys: Sequence[bytes]) -> dict[bytes, str]:
    """The id of each gateway's key."""
    return {key: await _id(core, "GatewayRegistry", "GatewayRegistered", key) for key in keys}


async def provider_ids(core: Core, keys: Sequence[bytes]) -> dict[bytes, str]:
    """The id of each provider's key."""
    return {key: await _id(core, "ProviderRegistry", "ProviderRegistered", key) for key in keys}


async def _id(core: Core, contract: str, event: str, key: bytes) -> str:
    async for found in core.events(contract, event, topics=("0x" + key.hex(),)):
        return str(found.arguments.id) if not isinstance(found.arguments.id, Unreadable) else found.arguments.id
    return "0x" + key.hex()
