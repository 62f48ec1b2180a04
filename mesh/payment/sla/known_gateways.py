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
MAX_GATEWAYS = 100
"""So many of the best staked are known."""
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
    """The staked gateways that registered with a peer id, by gateway id, most stake first. `run` beside who asks.

    Registering costs nothing, so those without the least stake are not among them, however many there are, and one
    that cannot be read is passed over.
    """

    def __init__(self, client: StakingClient, *, every: float = EVERY_SECONDS, most: int = MAX_GATEWAYS) -> None:
        self._client = client
        self._every = every
        self._most = most
        self._staked: dict[bytes, str] = {}
        """Ids of the gateways that have the least stake or have staked since the last look, by key."""
        self._known: dict[str, PeerId] = {}
        self._scanned: int | None = None

    def __call__(self) -> Mapping[str, PeerId]:
        return self._known

    async def look(self) -> None:
        """Read the stakes since the last look, and what the best staked gateways registered. Raises `ChainError`."""
        core = self._client.core
        last = await core.block_number()
        first = None if self._scanned is None else self._scanned + 1
        async for event in core.events("GatewayStaking", "GatewayStaked", first=first, last=last):
            self._staked[bytes(event.arguments.key)] = event.arguments.id
        self._scanned = last
        keys = sorted(self._staked)
        least, *stakes = await core.views(
            [
                ("GatewayStaking", "minGatewayStake", ()),
                *(("GatewayStaking", "effectiveStakeOfKey", (key,)) for key in keys),
            ]
        )
        stake_of = {key: stake for key, stake in zip(keys, stakes, strict=True) if stake >= least}
        # One that falls below the least stake is seen again when it stakes more.
        self._staked = {key: self._staked[key] for key in stake_of}
        best = sorted(stake_of, key=lambda key: (-stake_of[key], key))[: self._most]
        names = [self._staked[key] for key in best]
        answers = await core.try_views([("GatewayRegistry", "gateway", (name,)) for name in names])
        found = {}
        for name, gateway in zip(names, answers, strict=True):
            peer = None if isinstance(gateway, Exception) else peer_of(gateway.metadata)
            if peer is not None:
                found[name] = peer
        self._known = found

    async def run(self) -> NoReturn:
        """Until cancelled; a chain that does not answer is asked again."""
        while True:
            try:
                await self.look()
            except ChainError as error:
                logger.warning("the chain does not answer: %s", error)
            await asyncio.sleep(self._every)
