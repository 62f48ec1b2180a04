"""Two sides of every transport, and what tests of them share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from mesh.identity import Identity
from mesh.transport.channels import TransportSettings
from mesh.transport.choosing import ChoosingTransport
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.direct.transport import DirectSettings, DirectTransport
from mesh.transport.heartbeat import HeartbeatTransport
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.libp2p.transport import Libp2pSettings, Libp2pTransport
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel, Transport
from mesh.wire.frame import Frame


class Side(Transport, Protocol):
    """What the adapters here have in common."""

    async def open_raw(self, peer: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The bare byte stream of a new channel: a hostile peer's view."""


Pair = Callable[..., AbstractAsyncContextManager[tuple[Side, Side]]]

PROTOCOL = "/mesh/test/1"
MIB = 1 << 20
DEADLINE = 20.0


@asynccontextmanager
async def memory_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    network = MemoryNetwork()
    a, b = (MemoryTransport(Identity.generate().peer_id, network, settings=settings) for _ in range(2))
    async with a, b:
        yield a, b


@asynccontextmanager
async def hivemind_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with Daemon(DaemonConfig(Identity.generate())) as first:
        config = DaemonConfig(Identity.generate(), initial_peers=first.visible_maddrs)
        async with (
            Daemon(config) as second,
            HivemindTransport(first, settings=settings) as a,
            HivemindTransport(second, settings=settings) as b,
        ):
            yield a, b


@asynccontextmanager
async def direct_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with both_paths(settings) as ((a, _), (b, _)), a, b:
        yield a, b


class Choosing(ChoosingTransport):
    """With the hostile peer's view of the direct path."""

    def __init__(self, direct: DirectTransport, control: MemoryTransport) -> None:
        super().__init__(direct, control)
        self.open_raw = direct.open_raw


@asynccontextmanager
async def choosing_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with both_paths(settings) as (a, b), a[0], b[0], Choosing(*a) as first, Choosing(*b) as second:
        yield first, second


class Beating(HeartbeatTransport):
    """Watches the channels of the tests, over the in-memory twin."""

    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner, protocols={PROTOCOL})
        self.open_raw = inner.open_raw


@asynccontextmanager
async def beating_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with memory_pair(settings) as (a, b):
        assert isinstance(a, MemoryTransport)
        assert isinstance(b, MemoryTransport)
        async with Beating(a) as first, Beating(b) as second:
            yield first, second


@asynccontextmanager
async def both_paths(
    settings: TransportSettings | None,
) -> AsyncIterator[list[tuple[DirectTransport, MemoryTransport]]]:
    network = MemoryNetwork()
    bounds = DirectSettings(transport=settings or TransportSettings())
    own = [Identity.generate() for _ in range(2)]
    controls = [MemoryTransport(identity.peer_id, network) for identity in own]
    async with controls[0], controls[1]:
        yield [(DirectTransport(who, path, settings=bounds), path) for who, path in zip(own, controls, strict=True)]


@asynccontextmanager
async def libp2p_pair(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    a, b = (libp2p_side(settings) for _ in range(2))
    async with a, b:
        a.learn(b.peer_id, b.maddrs)
        b.learn(a.peer_id, a.maddrs)
        yield a, b


def libp2p_side(settings: TransportSettings | None) -> Libp2pTransport:
    bounds = Libp2pSettings(transport=settings or TransportSettings())
    return Libp2pTransport(Identity.generate(), listen=("/ip4/127.0.0.1/tcp/0",), settings=bounds)


@asynccontextmanager
async def libp2p_to_hivemind(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with (
        Daemon(DaemonConfig(Identity.generate())) as daemon,
        HivemindTransport(daemon, settings=settings) as b,
        libp2p_side(settings) as a,
    ):
        a.learn(b.peer_id, daemon.visible_maddrs)
        await daemon.connect(a.peer_id, a.maddrs)
        yield a, b


@asynccontextmanager
async def hivemind_to_libp2p(settings: TransportSettings | None = None) -> AsyncIterator[tuple[Side, Side]]:
    async with libp2p_to_hivemind(settings) as (light, daemon):
        yield daemon, light


class Inbox:
    """A handler that hands its channels to the test and keeps each open until the test lets go."""

    def __init__(self) -> None:
        self.channels: asyncio.Queue[Channel] = asyncio.Queue()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, channel: Channel) -> None:
        await self.channels.put(channel)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def next(self) -> Channel:
        async with asyncio.timeout(DEADLINE):
            return await self.channels.get()


async def echo(channel: Channel) -> None:
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


async def receive(channel: Channel) -> Frame | None:
    async with asyncio.timeout(DEADLINE):
        return await channel.receive()


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]
