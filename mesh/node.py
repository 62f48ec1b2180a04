"""A node's place in the network, put together: the daemon, the transport and the directory over it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from mesh.discovery.dht import DhtDirectory
from mesh.discovery.directory import Directory
from mesh.identity import Identity
from mesh.transport.daemon import Daemon, DaemonConfig
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.port import Transport


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Who we are, where we listen, through whom we join. A node in client mode listens nowhere."""

    identity: Identity
    host_maddrs: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    announce_maddrs: tuple[str, ...] = ()
    initial_peers: tuple[str, ...] = ()
    client_mode: bool = False
    runtime_root: Path | None = None


class Node:
    """Use as `async with`: entering joins the swarm, leaving leaves it."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self._daemon = Daemon(
            DaemonConfig(
                identity=config.identity,
                host_maddrs=config.host_maddrs,
                announce_maddrs=config.announce_maddrs,
                initial_peers=config.initial_peers,
                client_mode=config.client_mode,
                runtime_root=config.runtime_root,
            )
        )
        self._stack = AsyncExitStack()
        self.transport: Transport
        self.directory: Directory

    @property
    def peer_id(self) -> str:
        return self.config.identity.peer_id

    @property
    def maddrs(self) -> tuple[str, ...]:
        """Addresses that others can join through."""
        return self._daemon.visible_maddrs

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` (port in use, bad address) or `PeerUnreachable` (no initial peer answers)."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._daemon)
            self.transport = await stack.enter_async_context(HivemindTransport(self._daemon))
            self.directory = await stack.enter_async_context(DhtDirectory(self._daemon))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def watch(self) -> NoReturn:
        """Raises `InternalError` if the daemon ends while we run."""
        await self._daemon.watch()
        raise asyncio.InvalidStateError("the daemon's watch ended")
