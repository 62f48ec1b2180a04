"""The `Transport` port: authenticated, ordered channels of frames between peers.

Adapters: `memory` (the in-process twin), `hivemind` (a stream through the Go daemon), `libp2p` (the same protocols in
this process, without the daemon), `direct` (TLS 1.3 between peers that can dial each other), `heartbeat`, which notices
that a peer behind another one fell silent, and `choosing`, which takes the better of two. All of them pass
`tests/conformance/`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from mesh.wire.frame import Frame

PeerId = str
"""A libp2p peer id in base58, as in `12D3KooW…`."""


class Channel(Protocol):
    """An ordered, reliable, bidirectional stream of frames with one authenticated peer.

    One task sends and one task receives at a time; each may go on while the other does.
    """

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, as the transport proved it."""

    async def send(self, frame: Frame) -> None:
        """Send one frame; returns when the adapter's bounded buffer has room for the next.

        Raises `FrameTooLarge` (nothing was sent, the channel is still good) or `PeerUnreachable`.
        """

    def try_send(self, frame: Frame) -> bool:
        """Send a small frame at once, in order with `send`; False where that has to wait, and nothing was sent.

        Spares what wakes a task for each frame. Raises `PeerUnreachable`.
        """

    async def receive(self) -> Frame | None:
        """The next frame, or None once the peer has closed cleanly between frames.

        Raises `FrameTooLarge`, `FrameTruncated` or `ProtocolViolation` (after which the channel is closed),
        or `PeerUnreachable` when the connection broke.
        """

    async def aclose(self) -> None:
        """Close both directions. Idempotent; never raises because of the peer."""


Handler = Callable[[Channel], Awaitable[None]]


class Transport(Protocol):
    """A node's way to open channels to peers and to accept theirs. Use it as `async with`."""

    @property
    def peer_id(self) -> PeerId:
        """Our own peer id."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every channel, end every handler, free every resource."""

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Accept channels for `protocol` (like `/mesh/control/1`).

        Each runs `handler` in a task of its own, which the transport cancels when it closes; the channel is
        closed when the handler returns or raises. A `PeerError` from the handler is the peer's fault and only
        logged; any other exception is our bug and logged as such; neither stops the transport.
        """

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        """Open a channel.

        Raises `PeerUnreachable` (also when the peer does not serve `protocol`) or `PeerTimeout`.
        """
