"""The transport over hivemind: a channel is a libp2p stream through the Go daemon, relays and all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from mesh.errors import DaemonDown, InternalError, PeerError, PeerTimeout, PeerUnreachable
from mesh.transport import _hivemind
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.daemon import Daemon
from mesh.transport.memory import Streams, connect
from mesh.transport.port import Channel, Handler, PeerId

log = logging.getLogger(__name__)

_CONTROL_TIMEOUT = 5.0  # seconds for one answer of the daemon's control socket


class HivemindTransport:
    """A `Transport` over a running `Daemon`, which it does not own. libp2p's handshake proves the peers."""

    def __init__(self, daemon: Daemon, *, settings: TransportSettings | None = None) -> None:
        self._daemon = daemon
        self._channels = Channels(settings or TransportSettings())
        self._handlers: dict[str, Handler] = {}
        self.find: Callable[[PeerId], Awaitable[tuple[str, ...]]] | None = None
        """Says where a peer can be dialled that the daemon does not find; may raise `PeerError`s."""
        daemon.on_restart(self._serve_again)

    @property
    def peer_id(self) -> PeerId:
        return self._daemon.peer_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        h = _hivemind.load()
        self._channels.closed = True
        for protocol in self._handlers:
            # The daemon may be gone already; then it serves nothing any more either.
            with contextlib.suppress(TimeoutError, OSError, EOFError, h.P2PDaemonError):
                async with asyncio.timeout(_CONTROL_TIMEOUT):
                    await self._daemon.p2p.remove_binary_stream_handler(protocol)
        self._handlers.clear()
        await self._channels.aclose()

    async def serve(self, protocol: str, handler: Handler) -> None:
        if protocol in self._handlers:
            raise InternalError(f"{protocol} is served already")
        await self._serve(protocol, handler)
        self._handlers[protocol] = handler

    async def _serve_again(self) -> None:
        """The daemon is another one: it knows nothing of what we serve."""
        if not self._channels.closed:
            for protocol, handler in self._handlers.items():
                await self._serve(protocol, handler)

    async def _serve(self, protocol: str, handler: Handler) -> None:
        async def accept(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._channels.accept(info.peer_id.to_base58(), protocol, handler, reader, writer)

        h = _hivemind.load()
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT):
                await self._daemon.p2p.add_binary_stream_handler(protocol, accept)
        except (TimeoutError, OSError, EOFError, h.P2PDaemonError) as error:
            raise InternalError(f"p2pd cannot serve {protocol}: {error!r}") from error

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        reader, writer = await self.open_raw(peer, protocol, timeout=timeout)
        return self._channels.opened(peer, reader, writer)

    async def open_raw(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Streams:
        """The bare byte stream of a new channel: a hostile peer's view, for tests."""
        if self._channels.closed:
            raise PeerUnreachable("the transport is closed", peer=peer)
        if peer == self.peer_id:
            return connect(peer, peer, self._channels, self._handlers, protocol)
        try:
            async with asyncio.timeout(timeout):
                await self._daemon.up.wait()  # a restart takes a second or two
                try:
                    return await self._daemon.open_stream(peer, protocol)
                except PeerUnreachable:
                    if not await self._connect(peer):
                        raise
                    return await self._daemon.open_stream(peer, protocol)
        except TimeoutError:
            if not self._daemon.up.is_set():
                raise DaemonDown from None
            raise PeerTimeout(f"{peer} could not be reached in {timeout:g} s", peer=peer) from None
        except (OSError, EOFError) as error:  # what is between us and the daemon broke
            raise DaemonDown(f"this node's own daemon does not answer: {error!r}") from error
        except ValueError as error:
            raise PeerUnreachable(f"{peer} cannot be reached for {protocol}: {error}", peer=peer) from error

    async def _connect(self, peer: PeerId) -> bool:
        """Whether the daemon could connect to a peer where its record says that it is."""
        if self.find is None:
            return False
        try:
            maddrs = await self.find(peer)
            if maddrs:
                await self._daemon.connect(peer, maddrs)
        except PeerError as error:
            log.debug("%s is not where its record says: %s", peer, error)
            return False
        return bool(maddrs)
