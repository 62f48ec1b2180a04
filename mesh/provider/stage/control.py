"""One client's control channel at a hop: reads its requests, writes what its sessions produce."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mesh.errors import MeshError, PeerTimeout, ProtocolViolation
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from mesh.wire.messages import Message, decode, encode

logger = logging.getLogger(__name__)

MAX_OUTGOING = 8192


class ControlChannel:
    """A client's channel with a bounded outgoing queue; a client that does not read is dropped."""

    def __init__(
        self, channel: Channel, wait: Callable[[int], float] = lambda size: 0.0, *, idle_seconds: float | None = None
    ) -> None:
        """`wait` counts a request of so many bytes and says for how many seconds the next one is left unread: so who
        sends too many waits, and nobody else does. `idle_seconds` without a request end a channel that is not `busy`.
        """
        self._channel = channel
        self._wait = wait
        self._idle_seconds = idle_seconds
        self.busy: Callable[[], bool] = lambda: False
        self._outgoing: asyncio.Queue[Frame] = asyncio.Queue(MAX_OUTGOING)
        self._overrun = asyncio.Event()

    @property
    def peer(self) -> str:
        return self._channel.peer

    def tell(self, message: Message, payload: bytes = b"") -> None:
        """Queue a message for the client; never blocks."""
        try:
            self._outgoing.put_nowait(encode(message, payload))
        except asyncio.QueueFull:
            self._overrun.set()

    async def run(self, handle: Callable[[Message, Frame], None]) -> None:
        """Read requests until the client closes. Raises the client's `PeerError`, if there was one."""
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write())
            watcher = tasks.create_task(self._watch())
            try:
                while (frame := await self._next()) is not None:
                    handle(decode(frame), frame)
                    if seconds := self._wait(len(frame.payload)):
                        await asyncio.sleep(seconds)
            finally:
                writer.cancel()
                watcher.cancel()

    async def _next(self) -> Frame | None:
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    return await self._channel.receive()
            except TimeoutError:
                if not self.busy():
                    raise PeerTimeout(f"it asked nothing for {self._idle_seconds:g} s", peer=self.peer) from None

    async def _write(self) -> None:
        while True:
            await self._channel.send(await self._outgoing.get())

    async def _watch(self) -> None:
        await self._overrun.wait()
        raise ProtocolViolation(f"the client did not read {MAX_OUTGOING} messages", peer=self.peer)


def unwrap(group: BaseExceptionGroup[BaseException]) -> MeshError | None:
    """The single mesh error in a task group's failure, or None when there is something else in it."""
    errors = [leaf for leaf in _leaves(group) if not isinstance(leaf, asyncio.CancelledError)]
    first = errors[0] if errors else None
    return first if isinstance(first, MeshError) and all(isinstance(e, MeshError) for e in errors) else None


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
