"""A node without the Go daemon: a client's place in a swarm that other nodes make up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, NoReturn, Self

from mesh.discovery.asking import AskingDirectory
from mesh.discovery.directory import Directory
from mesh.errors import ConfigError, PeerError, PeerUnreachable
from mesh.identity import Identity
from mesh.transport.heartbeat import HeartbeatTransport
from mesh.transport.libp2p.addresses import peer_of, tcp_address
from mesh.transport.libp2p.transport import Libp2pTransport
from mesh.transport.port import Transport
from mesh.wire.messages import CONTROL_PROTOCOL

_JOIN_SECONDS: Final = 10.0  # for one of the initial peers to be reached


class LightNode:
    """Use as `async with`: entering connects to the swarm, leaving drops every connection.

    It takes no part in the DHT and relays nothing; it asks other nodes for the providers' signed records. It speaks
    TCP, so it reaches the providers that can be dialled directly or through a relay.
    """

    def __init__(self, identity: Identity, initial_peers: Sequence[str], *, host_maddrs: tuple[str, ...] = ()) -> None:
        """`host_maddrs`: where to listen; none is needed to use a swarm."""
        self._initial_peers = tuple(initial_peers)
        self._transport = Libp2pTransport(identity, listen=host_maddrs)
        self._stack = AsyncExitStack()
        self.transport: Transport
        self.directory: Directory

    @property
    def peer_id(self) -> str:
        return self._transport.peer_id

    @property
    def maddrs(self) -> tuple[str, ...]:
        """Where we listen, if anywhere."""
        return self._transport.maddrs

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` (bad address, port in use) or `PeerUnreachable` (no initial peer answers)."""
        seeds: dict[str, list[str]] = {}
        for maddr in self._initial_peers:
            peer = peer_of(maddr)
            if peer is None:
                raise ConfigError(f"an initial peer's address ends in /p2p/PEER_ID, got {maddr}")
            if tcp_address(maddr) is None:
                raise ConfigError(f"only TCP addresses can be dialled without the Go daemon, got {maddr}")
            seeds.setdefault(peer, []).append(maddr)
        if not seeds:
            raise ConfigError("give the address of a node of the swarm")
        async with AsyncExitStack() as stack:
            transport = await stack.enter_async_context(self._transport)
            for peer, maddrs in seeds.items():
                transport.learn(peer, maddrs)
            await self._reach(list(seeds))
            self.transport = await stack.enter_async_context(
                HeartbeatTransport(transport, protocols={CONTROL_PROTOCOL}, on_silent=transport.disconnect)
            )
            self.directory = await stack.enter_async_context(
                AskingDirectory(transport, list(seeds), learn=transport.learn)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def watch(self) -> NoReturn:
        """As `Node.watch`: there is no daemon that could end."""
        await asyncio.Event().wait()
        raise asyncio.InvalidStateError("nobody sets this event")

    async def _reach(self, peers: Sequence[str]) -> None:
        """Connect to one of `peers`."""
        tries = {asyncio.create_task(self._transport.reach(peer, timeout=_JOIN_SECONDS)) for peer in peers}
        failure: PeerError | None = None
        try:
            for done in asyncio.as_completed(tries):
                try:
                    await done
                    return
                except PeerError as error:
                    failure = error
        finally:
            for attempt in tries:
                attempt.cancel()
            await asyncio.wait(tries)
            for attempt in tries:
                if not attempt.cancelled():
                    attempt.exception()
        raise PeerUnreachable(
            f"none of the initial peers could be reached: {', '.join(self._initial_peers)} ({failure})"
        ) from failure
