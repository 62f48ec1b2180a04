"""From keys to ids: the contracts keep parties by the hash of their id; the event of a registration has the id."""

from __future__ import annotations

from collections.abc import Sequence

from chain.client.core import Core

KEYS_AT_ONCE = 100
"""In one filter of a node's log query."""


async def gateway_ids(core: Core, keys: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The id of each gateway's key, with the key: ids that cannot be shown may look alike."""
    return await _ids(core, "GatewayRegistry", "GatewayRegistered", keys)


async def provider_ids(core: Core, keys: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The id of each provider's key, with the key."""
    return await _ids(core, "ProviderRegistry", "ProviderRegistered", keys)


async def _ids(core: Core, contract: str, event: str, keys: Sequence[bytes]) -> list[tuple[str, bytes]]:
    found: dict[bytes, str] = {}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        wanted = ["0x" + key.hex() for key in keys[start : start + KEYS_AT_ONCE]]
        async for each in core.events(contract, event, topics=(wanted,)):
            found[each.arguments.key] = each.arguments.id
    return [(found.get(key, "0x" + key.hex()), key) for key in keys]
