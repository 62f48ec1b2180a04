"""The client's control channel to one hop, shared by all its sessions there."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from mesh.errors import PeerError, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.transport.port import Channel, PeerId, Transport
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    FetchFile,
    FileData,
    Message,
    NewToken,
    NewTokens,
    Ping,
    Pong,
    PromptProgress,
    PromptScores,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
    decode,
    encode,
)
from mesh.wire.paying import Compare, Hello, Receipt, Unwelcome, Voucher, Welcome
from mesh.wire.work import Work

logger = logging.getLogger(__name__)

FromHop = (
    SessionOpened
    | SessionRefused
    | NewToken
    | NewTokens
    | PromptScores
    | PromptProgress
    | SessionFailed
    | SessionClosed
)
Event = tuple[PeerId, FromHop | PeerError]
"""What a session hears: which hop, and its message, or why nothing more will come from it."""
Events = asyncio.Queue[Event]

ANSWER_SECONDS = 15.0
SEND_SECONDS = 30.0
INTRODUCTION = -1
"""The place of an introduction among the questions that wait for an answer; there is one a channel."""


class HopLink:
    """One control channel. `run` reads it until it breaks; every session on it then hears of that."""

    def __init__(self, peer: PeerId, channel: Channel) -> None:
        self.peer = peer
        self.round_trip: float | None = None
        """Seconds, from the last ping."""
        self.alive = True
        self.on_receipt: Callable[[Receipt], None] | None = None
        """Takes the receipts of a provider that is paid."""
        self.on_voucher: Callable[[Voucher], None] | None = None
        """Takes our own vouchers, which a provider shows us when we asked what it holds."""
        self.on_compare: Callable[[Compare], None] | None = None
        """Hears that those were all."""
        self.on_unwelcome: Callable[[Unwelcome], None] | None = None
        """Hears why a provider that has welcomed us works for us no longer."""
        self.on_end: Callable[[], None] | None = None
        self._channel = channel
        self._sessions: dict[bytes, Events] = {}
        self._proofs: dict[bytes, Callable[[PeerId, Work], None]] = {}
        self._answers: dict[int, asyncio.Future[tuple[Message, Frame]]] = {}
        self._numbers = itertools.count(secrets.randbits(32))
        self._sending = asyncio.Lock()
        self._sends: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, transport: Transport, peer: PeerId, *, timeout: float) -> HopLink:
        """Raises `PeerUnreachable` or `PeerTimeout`."""
        return cls(peer, await transport.open(peer, CONTROL_PROTOCOL, timeout=timeout))

    async def run(self) -> None:
        """Read until the channel ends, then tell everybody who waits on it."""
        ending: PeerError = PeerUnreachable(f"{self.peer} closed the connection", peer=self.peer)
        try:
            while (frame := await self._channel.receive()) is not None:
                self._dispatch(decode(frame), frame)
        except PeerError as error:
            ending = error
        finally:
            self.alive = False
            for queue in self._sessions.values():
                _offer(queue, (self.peer, ending))
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ending)
            if self.on_end is not None:
                self.on_end()
            await self._channel.aclose()  # which also ends the sends

    def join(self, session: bytes, queue: Events, prove: Callable[[PeerId, Work], None] | None = None) -> None:
        """From now on the session's messages go to `queue`, and its records of work to `prove`."""
        self._sessions[session] = queue
        if prove is not None:
            self._proofs[session] = prove

    def leave(self, session: bytes) -> None:
        """The session's messages are dropped from now on."""
        self._sessions.pop(session, None)
        self._proofs.pop(session, None)

    async def send(self, message: Message, payload: bytes = b"") -> None:
        """Raises `PeerUnreachable` or `PeerTimeout`.

        When the caller is cancelled, the message still goes out: half a frame would break the channel for the other
        sessions on it.
        """
        if not self.alive:
            raise PeerUnreachable(f"the connection to {self.peer} is gone", peer=self.peer)
        task = asyncio.create_task(self._send(encode(message, payload)))
        self._sends.add(task)
        task.add_done_callback(self._sent)
        await asyncio.shield(task)

    async def _send(self, frame: Frame) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS), self._sending:
                await self._channel.send(frame)
        except TimeoutError as error:
            raise PeerTimeout(f"{self.peer} took nothing for {SEND_SECONDS:g} s", peer=self.peer) from error

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where the caller has left

    async def ping(self) -> float:
        """Seconds to the hop and back."""
        nonce = next(self._numbers)
        began = time.perf_counter()
        await self._ask(nonce, Ping(nonce))
        self.round_trip = time.perf_counter() - began
        return self.round_trip

    async def fetch(self, digest: str, name: str, limit: int) -> bytes:
        """A small file of the model. Raises `PeerError` when the hop has none or it is too large."""
        request = next(self._numbers)
        message, frame = await self._ask(request, FetchFile(request, digest, name))
        if not isinstance(message, FileData) or message.error is not None:
            reason = message.error if isinstance(message, FileData) else "it answered something else"
            raise PeerError(f"{self.peer} did not give {name}: {reason}", peer=self.peer)
        if len(frame.payload) > limit:
            raise ProtocolViolation(f"{name} is larger than announced", peer=self.peer)
        return bytes(frame.payload)

    async def introduce(self, hello: Hello, binding: bytes) -> Welcome | Unwelcome:
        """Say who pays; what the hop answers. Raises `PeerError`."""
        message, _ = await self._ask(INTRODUCTION, hello, binding)
        if not isinstance(message, Welcome | Unwelcome):
            raise ProtocolViolation(f"a {message.kind!r} message answers no introduction", peer=self.peer)
        return message

    async def _ask(self, number: int, message: Message, payload: bytes = b"") -> tuple[Message, Frame]:
        answer: asyncio.Future[tuple[Message, Frame]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            await self.send(message, payload)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError as error:
            raise PeerTimeout(f"{self.peer} did not answer within {ANSWER_SECONDS:g} s", peer=self.peer) from error
        finally:
            self._answers.pop(number, None)
            answer.cancel()

    def _dispatch(self, message: Message, frame: Frame) -> None:
        match message:
            case (
                SessionOpened()
                | SessionRefused()
                | NewToken()
                | NewTokens()
                | PromptScores()
                | PromptProgress()
                | SessionFailed()
                | SessionClosed()
            ):
                queue = self._sessions.get(message.session)
                if queue is not None and not _offer(queue, (self.peer, message)):
                    raise ProtocolViolation("it sent more than the session can have", peer=self.peer)
            case Work() as work:
                if (prove := self._proofs.get(work.session)) is not None:
                    prove(self.peer, work)
            case FileData(request=number) | Pong(nonce=number):
                answer = self._answers.get(number)
                if answer is not None and not answer.done():
                    answer.set_result((message, frame))
            case Welcome() | Unwelcome():
                answer = self._answers.get(INTRODUCTION)
                if answer is not None and not answer.done():
                    answer.set_result((message, frame))
                elif isinstance(message, Unwelcome) and self.on_unwelcome is not None:
                    self.on_unwelcome(message)
            case Receipt() if self.on_receipt is not None:
                self.on_receipt(message)
            case Voucher() if self.on_voucher is not None:
                self.on_voucher(message)
            case Compare() if self.on_compare is not None:
                self.on_compare(message)
            case _:
                raise ProtocolViolation(f"a {message.kind!r} message makes no sense here", peer=self.peer)


def _offer(queue: Events, event: Event) -> bool:
    try:
        queue.put_nowait(event)
    except asyncio.QueueFull:
        return False
    return True


class HopLinks:
    """The client's open control channels, one per hop, kept while the client lives."""

    def __init__(
        self,
        transport: Transport,
        tasks: asyncio.TaskGroup,
        *,
        open_timeout: float = 10.0,
        greet: Callable[[HopLink], Awaitable[None]] | None = None,
    ) -> None:
        """`greet` says the first words on every new channel; what it raises, `get` raises."""
        self._greet = greet
        self._transport = transport
        self._tasks = tasks
        self._open_timeout = open_timeout
        self._links: dict[PeerId, HopLink] = {}
        self._locks: dict[PeerId, asyncio.Lock] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self.closed = False

    async def get(self, peer: PeerId) -> HopLink:
        """The link to a hop, opened if need be. Raises `PeerUnreachable` or `PeerTimeout`."""
        if self.closed:
            raise PeerUnreachable("the client is closed", peer=peer)
        async with self._locks.setdefault(peer, asyncio.Lock()):
            link = self._links.get(peer)
            if link is None or not link.alive:
                link = await HopLink.open(self._transport, peer, timeout=self._open_timeout)
                self._readers.add(reader := self._tasks.create_task(link.run()))
                reader.add_done_callback(self._readers.discard)
                if self._greet is not None:
                    try:
                        await self._greet(link)
                    except BaseException:
                        reader.cancel()
                        raise
                self._links[peer] = link
            return link

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what must be finished even when its caller is cancelled."""
        return self._tasks.create_task(work)

    def close(self) -> None:
        """End every link, and open no more."""
        self.closed = True
        for reader in self._readers:
            reader.cancel()

    def round_trips(self) -> Mapping[PeerId, float]:
        """Measured seconds to hops that we have a channel to."""
        return {
            peer: link.round_trip for peer, link in self._links.items() if link.alive and link.round_trip is not None
        }
