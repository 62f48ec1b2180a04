"""A node's place in the network, put together: the daemon, the transport and the directory over it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from mesh.discovery.dht import DhtDirectory
from mesh.discovery.directory import Directory
from mesh.discovery.records_service import RecordsService
from mesh.errors import InternalError, PeerUnreachable
from mesh.identity import Identity
from mesh.transport.channels import TransportSettings
from mesh.transport.choosing import ChoosingTransport
from mesh.transport.daemon import Daemon
from mesh.transport.daemon_config import DaemonConfig
from mesh.transport.daemon_keeper import DaemonKeeper
from mesh.transport.direct.addresses import dialable, hosts_of
from mesh.transport.direct.transport import DirectTransport
from mesh.transport.heartbeat import HeartbeatTransport
from mesh.transport.hivemind import HivemindTransport
from mesh.transport.knock_service import knock_handler
from mesh.transport.link_speed import MAX_PROBE, SPEED_PROTOCOL, speed_handler
from mesh.transport.pairs_service import pairs_handler
from mesh.transport.port import Transport
from mesh.transport.relay.local import fixed, own_addresses, reachable_at
from mesh.transport.relay.places import RelayLimits
from mesh.transport.relay.punching import Punching
from mesh.transport.relay.reservations import Reservations
from mesh.transport.relay.service import Relay
from mesh.wire.audit import AUDIT_PROTOCOL, MAX_QUESTION_BYTES
from mesh.wire.audit import HEADER_LIMIT as AUDIT_HEADER
from mesh.wire.direct import DIRECT_PROTOCOL, MESSAGE_LIMITS
from mesh.wire.frame import FrameLimits
from mesh.wire.knock import KNOCK_PROTOCOL
from mesh.wire.leaves import LEAVES_PROTOCOL
from mesh.wire.messages import CONTROL_PROTOCOL, RING_PROTOCOL
from mesh.wire.multiaddr import ip_of, is_relayed, relay_of
from mesh.wire.pairs import PAIRS_PROTOCOL, PairState, Way
from mesh.wire.records import RECORDS_PROTOCOL

log = logging.getLogger(__name__)

DIRECT_PROTOCOLS = frozenset({RING_PROTOCOL, SPEED_PROTOCOL})
"""What goes over direct connections where they can be made: the activations, and the measuring of the line that they
take. Control stays with the daemon.
"""
WATCHED_PROTOCOLS = frozenset({CONTROL_PROTOCOL, RING_PROTOCOL})
"""Channels that are there for long, and may be quiet for long."""

PUNCH_SECONDS = 3.0
"""Between two looks at who is reached through relays only."""
FIRST_RELAY_SECONDS = 5.0
"""How long a node behind a NAT waits for a relay to take it before it goes on without."""


INBOUND_LIMITS = {
    CONTROL_PROTOCOL: FrameLimits(payload=8 << 20),
    DIRECT_PROTOCOL: MESSAGE_LIMITS,
    PAIRS_PROTOCOL: FrameLimits(header=0, payload=0),
    SPEED_PROTOCOL: FrameLimits(header=0, payload=MAX_PROBE),
    KNOCK_PROTOCOL: FrameLimits(header=4096, payload=0),
    LEAVES_PROTOCOL: FrameLimits(header=4096, payload=0),
    RECORDS_PROTOCOL: FrameLimits(header=4096, payload=0),
    AUDIT_PROTOCOL: FrameLimits(header=AUDIT_HEADER, payload=MAX_QUESTION_BYTES),
}
"""What may come on channels that others open. On control channels the largest is a prompt: of two million tokens."""


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
    relays: tuple[str, ...] = ()
    """Set for a node behind a NAT: through whom to be reached; those that refuse, or are gone, do no harm."""
    relay_limits: RelayLimits | None = None
    """What to give to nodes behind a NAT; None: this node is no relay."""


class Node:
    """Use as `async with`: entering joins the swarm, leaving leaves it."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        listening, announced = config.host_maddrs, config.announce_maddrs
        if config.relays:
            listening = fixed(listening)
            announced = (*announced, *reachable_at(listening, own_addresses()))
        self._daemon = Daemon(
            DaemonConfig(
                identity=config.identity,
                host_maddrs=listening,
                announce_maddrs=announced,
                initial_peers=config.initial_peers,
                client_mode=config.client_mode,
                runtime_root=config.runtime_root,
                relays=config.relays,
            )
        )
        self._keeper = DaemonKeeper(self._daemon)
        self._keeping: asyncio.Task[NoReturn] | None = None
        self.relay = Relay(self._daemon, config.relay_limits)
        self._reservations = Reservations(self._daemon, config.relays)
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
        held = self.relays
        return tuple(maddr for maddr in self._daemon.visible_maddrs if not is_relayed(maddr) or relay_of(maddr) in held)

    @property
    def relays(self) -> tuple[str, ...]:
        """The peer ids of the relays through which we are reached now."""
        return self._reservations.held

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` (port in use, bad address) or `PeerUnreachable` (no initial peer answers)."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._daemon)
            self._daemon.on_restart(self._meet_neighbours)
            if not self.config.client_mode:
                await stack.enter_async_context(self.relay)
            if self.config.relays:
                await stack.enter_async_context(self._reservations)
                await self._reservations.first(FIRST_RELAY_SECONDS)
            daemons = await stack.enter_async_context(
                HivemindTransport(self._daemon, settings=TransportSettings(inbound_limits=INBOUND_LIMITS))
            )
            self.transport = control = await stack.enter_async_context(
                HeartbeatTransport(daemons, protocols=WATCHED_PROTOCOLS, on_silent=self._daemon.disconnect)
            )
            if self.config.direct_port is not None:
                direct = await stack.enter_async_context(self._direct(control, self.config.direct_port))
                self.transport = self._choosing = await stack.enter_async_context(
                    ChoosingTransport(direct, control, protocols=DIRECT_PROTOCOLS)
                )
                await control.serve(PAIRS_PROTOCOL, pairs_handler(self.pairs))
            if not self.config.client_mode:
                await self.transport.serve(SPEED_PROTOCOL, speed_handler())
                await control.serve(KNOCK_PROTOCOL, knock_handler(self._connections_with))
            self.directory = directory = await stack.enter_async_context(DhtDirectory(self._daemon, transport=control))
            daemons.find = directory.maddrs_of
            if not self.config.client_mode:
                records = RecordsService(directory)
                stack.push_async_callback(records.aclose)
                await control.serve(RECORDS_PROTOCOL, records)
            self._keeping = asyncio.create_task(self._keeper.run(), name="keeping p2pd running")
            self._keeping.add_done_callback(_given_up)
            stack.push_async_callback(self._let_go)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _let_go(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})

    async def _meet_neighbours(self) -> None:
        await self._keeper.meet_neighbours()

    async def _connections_with(self, peer: str) -> tuple[str, ...]:
        """The addresses at its ends of our connections with it."""
        return (await self._daemon.connections()).get(peer, ())

    async def pairs(self) -> list[PairState]:
        """The peers that we have channels with, and which way."""
        if self._choosing is None:
            return []
        try:
            connections = await self._daemon.connections()
        except InternalError:
            connections = {}
        states = []
        for pair in self._choosing.pairs():
            way: Way = "direct"
            relay = None
            if pair.path == "control":
                way, relay = await self._daemon_way(pair.peer, connections.get(pair.peer, ()))
            round_trips = pair.direct_round_trip, pair.control_round_trip
            states.append(PairState(pair.peer, way, pair.channels, *round_trips, pair.problem, relay))
        return states

    async def _daemon_way(self, peer: str, addresses: tuple[str, ...]) -> tuple[Way, str | None]:
        """How the daemons are connected, from the other ends' addresses; and the relay, if there is one between."""
        straight = [address for address in addresses if not is_relayed(address)]
        if addresses and not straight:
            return "relayed", relay_of(addresses[-1])
        if not self.config.relays or not any(ip.is_global for ip in map(ip_of, straight) if ip is not None):
            return "daemon", None
        # We are behind a NAT and not on one network with the peer: if nobody can dial that either, a hole was punched.
        return "punched" if await self._is_behind_nat(peer) else "daemon", None

    async def _is_behind_nat(self, peer: str) -> bool | None:
        """True for a peer that says it is reached through relays only; None when it says nothing of use."""
        try:
            known = await self._daemon.addresses_of(peer)
        except PeerUnreachable:
            return None
        public = [maddr for maddr in known if is_relayed(maddr) or ((ip := ip_of(maddr)) is not None and ip.is_global)]
        return all(map(is_relayed, public)) if public else None

    async def watch_relays(self, tell: Callable[[tuple[str, ...]], None]) -> NoReturn:
        """Behind a NAT, until cancelled: call `tell` with `relays` whenever they change, and try to get past them."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reservations.watch(tell))
            punching = Punching()
            while True:
                await asyncio.sleep(PUNCH_SECONDS)
                try:
                    await self._punch(punching)
                except InternalError as error:
                    log.debug("no look at who is relayed: %s", error)

    async def _punch(self, punching: Punching) -> None:
        """Connect anew to idle peers that we reach through relays only: we may dial them, or a hole be punched."""
        if self._choosing is None:
            return
        connections = await self._daemon.connections()
        relayed = [peer for peer, ways in connections.items() if all(map(is_relayed, ways))]
        for peer in punching.due(relayed, {pair.peer for pair in self._choosing.pairs()}, time.monotonic()):
            behind_nat = await self._is_behind_nat(peer)
            if behind_nat is None or (behind_nat and peer < self.peer_id):  # of two behind NATs, one does it
                continue
            log.debug("trying to get past the relay to %s", peer)
            try:
                known = await self._daemon.addresses_of(peer)
                await self._daemon.disconnect(peer)
                await self._daemon.connect(peer, known)
            except PeerUnreachable as error:
                log.info("%s", error)

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
        """Raises `InternalError` when the daemon has ended and cannot be kept running (`DaemonKeeper`)."""
        if self._keeping is not None:
            await asyncio.shield(self._keeping)
        raise asyncio.InvalidStateError("the daemon's watch ended")


def _given_up(keeping: asyncio.Task[NoReturn]) -> None:
    error = None if keeping.cancelled() else keeping.exception()
    if error is not None:  # said here as well, for programs that do not `watch`
        log.error("this node is cut off for good: %s", error)
