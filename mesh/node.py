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
from mesh.discovery.records_service import RecordsService
from mesh.errors import MeshError
from mesh.identity import Identity
from mesh.transport.choosing import ChoosingTransport
from mesh.transport.daemon import Daemon, DaemonConfig
from mesh.transport.direct.addresses import dialable, hosts_of
from mesh.transport.direct.transport import DirectTransport
from mesh.transport.heartbeat import HeartbeatTransport
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.pairs_service import pairs_handler
from mesh.transport.port import Transport
from mesh.wire.messages import CONTROL_PROTOCOL, RING_PROTOCOL
from mesh.wire.pairs import PAIRS_PROTOCOL, PairState
from mesh.wire.records import RECORDS_PROTOCOL

DIRECT_PROTOCOLS = frozenset({RING_PROTOCOL})
"""What goes over direct connections where they can be made: the activations. Control stays with the daemon."""
WATCHED_PROTOCOLS = frozenset({CONTROL_PROTOCOL, RING_PROTOCOL})
"""Channels that are there for long, and may be quiet for long."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Who we are, where we listen, through whom we join. A node in client mode listens nowhere."""

    identity: Identity
    host_maddrs: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    announce_maddrs: tuple[str, ...] = ()
    initial_peers: tuple[str, ...] = ()
    client_mode: bool = False
    runtime_root: Path | None = None
    direct_port: int | None = 0
    """TCP port for direct TLS connections, on the addresses of `host_maddrs`; 0: a free one, None: no such path."""


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
        self._choosing: ChoosingTransport | None = None
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
            daemons = await stack.enter_async_context(HivemindTransport(self._daemon))
            self.transport = control = await stack.enter_async_context(
                HeartbeatTransport(daemons, protocols=WATCHED_PROTOCOLS, on_silent=self._daemon.disconnect)
            )
            if self.config.direct_port is not None:
                direct = await stack.enter_async_context(self._direct(control, self.config.direct_port))
                self.transport = self._choosing = await stack.enter_async_context(
                    ChoosingTransport(direct, control, protocols=DIRECT_PROTOCOLS)
                )
                await control.serve(PAIRS_PROTOCOL, pairs_handler(self.pairs))
            self.directory = directory = await stack.enter_async_context(DhtDirectory(self._daemon))
            if not self.config.client_mode:
                records = RecordsService(directory)
                stack.push_async_callback(records.aclose)
                await control.serve(RECORDS_PROTOCOL, records)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def pairs(self) -> list[PairState]:
        """The peers that we have channels with, and which way."""
        if self._choosing is None:
            return []
        try:
            relayed = await self._daemon.relayed_peers()
        except (MeshError, TimeoutError):
            relayed = frozenset()
        return [
            PairState(
                pair.peer,
                "direct" if pair.path == "direct" else "relayed" if pair.peer in relayed else "daemon",
                pair.channels,
                pair.direct_round_trip,
                pair.control_round_trip,
                pair.problem,
            )
            for pair in self._choosing.pairs()
        ]

    def _direct(self, control: Transport, port: int) -> DirectTransport:
        config = self.config
        return DirectTransport(
            config.identity,
            control,
            hosts=() if config.client_mode else hosts_of(config.host_maddrs),
            port=port,
            addresses=lambda: dialable(config.announce_maddrs, self._daemon.visible_maddrs),
        )

    async def watch(self) -> NoReturn:
        """Raises `InternalError` if the daemon ends while we run."""
        await self._daemon.watch()
        raise asyncio.InvalidStateError("the daemon's watch ended")
