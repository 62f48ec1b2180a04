"""Bounds on connections: how many are open, how many from one address, and how long a request's head may take.

uvicorn has a deadline for idle connections only. The subclass here adds one for a head that does not arrive, for a
body that is still sent after its answer, and for an answer that nobody takes; and it counts.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

UNKNOWN_SOURCE: Final = "unknown"
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Counts of open connections; times in seconds. A gateway behind a proxy sees one address, the proxy's."""

    total: int = 512
    per_address: int = 128
    """Of one IPv4 address or one IPv6 /64."""
    head_seconds: float = 10.0
    """A request's line and headers must be there so long after the connection, or their first byte."""
    keep_alive_seconds: float = 5.0
    """An idle connection is closed after so long."""
    drain_seconds: float = 30.0
    """A connection that is being closed is cut when its client has not taken the rest by then."""

    def __post_init__(self) -> None:
        times = (self.head_seconds, self.keep_alive_seconds, self.drain_seconds)
        if min(self.total, self.per_address) < 1 or min(times) <= 0:
            raise ValueError("every limit of connections must be positive")


class OpenConnections:
    """Counts open connections by source."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.refused = 0
        self._by_source: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def enter(self, source: str) -> bool:
        """Count a new connection; False, and it is not counted, where there are as many as there may be."""
        if self._total >= self.limits.total or self._by_source[source] >= self.limits.per_address:
            self.refused += 1
            if not self._by_source[source]:
                del self._by_source[source]
            return False
        self._by_source[source] += 1
        self._total += 1
        return True

    def leave(self, source: str) -> None:
        """One that was counted has ended."""
        self._total -= 1
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]


def source_of(host: str | None) -> str:
    """What counts as one source of connections: an IPv4 address, an IPv6 /64, or `UNKNOWN_SOURCE`."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return UNKNOWN_SOURCE
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


class GuardedProtocol(H11Protocol):
    """One connection. Subclasses made by `guarded_protocol` say which `OpenConnections` it belongs to."""

    open_connections: OpenConnections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._source: str | None = None
        """Set while this connection is counted."""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        source = source_of(peer[0] if isinstance(peer, tuple) else None)
        if not self.open_connections.enter(source):
            transport.write(_FULL)
            transport.close()
            return
        self._source = source
        super().connection_made(transport)
        self._expect(self.open_connections.limits.head_seconds)

    def data_received(self, data: bytes) -> None:
        if self._source is not None:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        if self._source is not None:
            self.open_connections.leave(self._source)
            self._source = None
            super().connection_lost(exc)

    def _watch(self) -> None:
        """Start or stop the deadline by what the client owes us now."""
        limits = self.open_connections.limits
        if self.transport.is_closing():
            self._expect_nothing()
            self._expect(limits.drain_seconds)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._expect_nothing()  # the app has deadlines of its own
        elif self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._expect(limits.head_seconds)
        elif self.cycle is not None:
            self._expect_nothing()  # idle, for which the server has a deadline

    def _expect(self, seconds: float) -> None:
        """Cut the connection after `seconds`, unless a deadline runs already."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def guarded_protocol(limits: ConnectionLimits) -> type[GuardedProtocol]:
    """A protocol class for one server, whose connections are counted together as `open_connections`."""
    return type("ServerProtocol", (GuardedProtocol,), {"open_connections": OpenConnections(limits)})
