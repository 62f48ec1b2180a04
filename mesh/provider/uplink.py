"""What a provider's own link carries, in tokens per second, measured again from time to time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection

from mesh.discovery.records import MAX_RATE
from mesh.transport.link_speed import usual_link_speed
from mesh.transport.port import PeerId, Transport

ASKED = 3
"""Neighbours that are asked."""
UNKNOWN_SECONDS = 20.0
"""Before it is tried again, where nobody could be asked."""
AGAIN_SECONDS = 1800.0


class Uplink:
    """Measures the link to the others of a model: bytes per second over the bytes of a token's hidden state."""

    def __init__(
        self, transport: Transport, token_bytes: int, others: Callable[[], Awaitable[Collection[PeerId]]]
    ) -> None:
        self._transport = transport
        self._token_bytes = token_bytes
        self._others = others
        self.rate = 0.0
        """Tokens per second; 0 while it is not known."""

    async def measure(self) -> None:
        """Ask a few of the others. What was known stays where none of them answers."""
        others = sorted(await self._others())
        speed = await usual_link_speed(self._transport, random.sample(others, min(ASKED, len(others))))
        if speed:
            self.rate = min(speed / self._token_bytes, MAX_RATE)

    async def keep(self) -> None:
        """Measure now and again; never returns."""
        while True:
            await self.measure()
            await asyncio.sleep(AGAIN_SECONDS if self.rate else UNKNOWN_SECONDS)
