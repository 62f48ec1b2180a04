"""A stage's incoming ring channels: one per neighbour, read as fast as the stage takes what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mesh.errors import PeerError, PeerTimeout, ProtocolViolation
from mesh.provider.stage.events import Action, Arrived, Event, PeerLost, RingClosed, Stray
from mesh.transport.port import Channel, PeerId
from mesh.wire.frame import Frame
from mesh.wire.messages import Activations, NextTokens, decode

MAX_STRAYS = 256
"""Frames in a row that belong to no session: a few are on their way when one is closed, more nobody needs to send."""
SILENCE_SECONDS = 120.0
"""After which the channel of a peer ends that is no session's neighbour."""


class RingServer:
    """Takes what the neighbours of a stage's sessions send.

    `handle` carries out what an event asks for and says what that was, `needed` whether a session has this neighbour,
    `room` returns once the stage takes more.
    """

    def __init__(
        self,
        handle: Callable[[Event], Sequence[Action]],
        needed: Callable[[PeerId], bool],
        room: Callable[[], Awaitable[object]],
    ) -> None:
        self._handle = handle
        self._needed = needed
        self._room = room
        self.silence_seconds = SILENCE_SECONDS
        self._channels: dict[PeerId, Channel] = {}
        """Each neighbour's newest channel to us."""

    async def serve(self, channel: Channel) -> None:
        """Take what one neighbour sends until it closes. Raises its `PeerError`, if there was one."""
        sender = channel.peer
        self._channels[sender] = channel
        try:
            await self._take(channel)
        except PeerError as error:
            if self._channels.get(sender) is channel:
                code = "bad_input" if isinstance(error, ProtocolViolation) else "peer_lost"
                self._handle(PeerLost(sender, str(error), code))
            raise
        else:
            if self._channels.get(sender) is channel:
                self._handle(RingClosed(sender))
        finally:
            if self._channels.get(sender) is channel:
                del self._channels[sender]

    async def _take(self, channel: Channel) -> None:
        """Raises `PeerTimeout` for a peer that no session needs and that says nothing for long."""
        strays, heard = 0, False
        while True:
            try:
                async with asyncio.timeout(self.silence_seconds):  # one for many frames: each would cost a hop time
                    while (frame := await channel.receive()) is not None:
                        heard = True
                        strays = strays + 1 if self._is_stray(channel.peer, frame) else 0
                        if strays > MAX_STRAYS:
                            raise ProtocolViolation(f"{strays} frames in a row for no session", peer=channel.peer)
                        await self._room()
                return
            except TimeoutError:
                if not heard and not self._needed(channel.peer):
                    raise PeerTimeout(f"it sent nothing for {self.silence_seconds:g} s", peer=channel.peer) from None
                heard = False

    def _is_stray(self, sender: PeerId, frame: Frame) -> bool:
        match decode(frame):
            case Activations() | NextTokens() as message:
                done = self._handle(Arrived(sender, message, frame.payload))
                return any(isinstance(action, Stray) for action in done)
            case other:
                raise ProtocolViolation(f"a {other.kind!r} message makes no sense on the ring", peer=sender)
