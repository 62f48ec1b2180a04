"""Where other gateways are: their peer ids, as they registered them on the chain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NoReturn

from chain import safe_json
from chain.client.staking import StakingClient
from chain.errors import ChainError
from mesh.identity import public_key_of
from mesh.transport.port import PeerId

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
SCHEME = "p2p:"


def peer_of(metadata: str) -> PeerId | None:
    """The peer id in a registration's metadata, `{"url": "p2p:PEER"}`; None where there is none."""
    try:
        value = safe_json.parse(metadata.encode())
    except ValueError:
        return None
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str) or not url.startswith(SCHEME):
        return None
    peer = url.removeprefix(SCHEME)
    try:
        public_key_of(peer)
    except ValueError:
        return None
    return peer


class KnownGateways:
    """The gateways that registered with a peer id, by gateway id. `run` beside who asks."""

    def __init__(self, client: StakingClient, *, every: float = EVERY_SECONDS) -> None:
        self._client = client
        self._every = every
        self._peers: dict[str, PeerId] = {}
        self._scanned: int | None = None

    def __call__(self) -> Mapping[str, PeerId]:
        return self._peers

    async def look(self) -> None:
        """Read the registrations since the last look. Raises `ChainError`."""
        core = self._client.core
        last = await core.block_number()
        first = None if self._scanned is None else self._scanned + 1
        async for event in core.events("GatewayRegistry", "GatewayRegistered", first=first, last=last):
            peer = peer_of(event.arguments.metadata)
            if peer is not None:
                self._peers[event.arguments.id] = peer
        self._scanned = last

    async def run(self) -> NoReturn:
        """Until cancelled; a chain that does not answer is asked again."""
        while True:
            try:
                await self.look()
            except ChainError as error:
                logger.warning("the chain does not answer: %s", error)
            await asyncio.sleep(self._every)
