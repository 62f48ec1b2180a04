"""Two nodes with a direct port each, introduced over the in-memory transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mesh.identity import Identity
from mesh.transport.direct.transport import DirectSettings, DirectTransport
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel

PROTOCOL = "/mesh/test/1"
DEADLINE = 15.0


@dataclass(slots=True)
class Side:
    """One node."""

    identity: Identity
    control: MemoryTransport
    direct: DirectTransport

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    @property
    def address(self) -> tuple[str, int]:
        port = self.direct.port
        assert port is not None
        return "127.0.0.1", port


@asynccontextmanager
async def duo(settings: DirectSettings | None = None) -> AsyncIterator[tuple[Side, Side, MemoryNetwork]]:
    network = MemoryNetwork()
    sides = []
    for _ in range(2):
        identity = Identity.generate()
        control = MemoryTransport(identity.peer_id, network)
        sides.append(Side(identity, control, DirectTransport(identity, control, settings=settings)))
    a, b = sides
    async with a.control, b.control, a.direct, b.direct:
        yield a, b, network


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the other side closed, reset or gave up the TLS handshake."""
    received = b""
    async with asyncio.timeout(DEADLINE):
        try:
            while data := await reader.read(65536):
                received += data
        except OSError:
            pass
    return received
