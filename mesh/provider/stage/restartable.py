"""A transport's protocols, served by one stage after another: what a provider needs that moves to other blocks."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from mesh.transport.port import Channel, Handler, PeerId, Transport

SHUT_SECONDS = 5.0


class RestartableTransport:
    """A `Transport` on top of another (which it does not close) whose protocols may be served again after `shut`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._handlers: dict[str, Handler] = {}
        self._served: set[str] = set()
        self._visits: set[asyncio.Task[None]] = set()

    @property
    def peer_id(self) -> PeerId:
        return self._transport.peer_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shut()

    async def serve(self, protocol: str, handler: Handler) -> None:
        """See `Transport`; whoever serves a protocol last gets its channels."""
        self._handlers[protocol] = handler
        if protocol not in self._served:
            self._served.add(protocol)
            await self._transport.serve(protocol, lambda channel: self._visit(protocol, channel))

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        return await self._transport.open(peer, protocol, timeout=timeout)

    async def shut(self) -> None:
        """Show everybody out: channels to us end, and new ones end at once until somebody serves again."""
        self._handlers.clear()
        for visit in self._visits:
            visit.cancel()
        if self._visits:
            await asyncio.wait(self._visits, timeout=SHUT_SECONDS)

    async def _visit(self, protocol: str, channel: Channel) -> None:
        handler = self._handlers.get(protocol)
        visit = asyncio.current_task()
        if handler is None or visit is None:
            return
        self._visits.add(visit)
        try:
            await handler(channel)
        finally:
            self._visits.discard(visit)
