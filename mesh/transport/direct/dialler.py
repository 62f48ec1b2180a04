"""Dials peers: the introduction over the control path, then the first of their addresses that leads to them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from mesh.errors import PeerError, PeerUnreachable, ProtocolViolation
from mesh.transport.direct.certificate import Credentials, verify_certificate
from mesh.transport.direct.channel import CLOSE_TIMEOUT, DirectChannel
from mesh.transport.direct.liveness import tune
from mesh.transport.memory import Streams
from mesh.transport.port import Channel, PeerId, Transport
from mesh.transport.streams import StreamSettings
from mesh.wire.direct import (
    DIRECT_PROTOCOL,
    MESSAGE_LIMITS,
    Accepted,
    Address,
    Declined,
    Hello,
    Introduce,
    Introduced,
    Message,
    Start,
    decode,
    encode,
)
from mesh.wire.frame import PREFIX, Frame, decode_prefix, encode_prefix

_STAGGER = 0.25  # seconds before the next address is tried beside one that has not answered (RFC 8305)
_MAX_ACQUAINTANCES = 1024


class TurnedAway(PeerUnreachable):
    """The peer was reached and proved, but does not want this channel."""


class NotIntroduced(PeerUnreachable):
    """The control path gave us nowhere to dial: the peer has no direct port, or there is no control path."""


@dataclass(frozen=True, slots=True)
class DiallerSettings:
    """Deadlines of the dialler, in seconds."""

    seconds: float = 5.0
    """For each answer inside TLS."""
    introduction_seconds: float = 10.0
    """For the control path to open."""
    most_seconds: float = 600.0
    """How long an introduction is believed at most."""


@dataclass(slots=True)
class Acquaintance:
    """What a peer told us: where to dial, with which token, and which certificate to expect."""

    introduced: Introduced
    context: ssl.SSLContext
    expires: float


class Dialler:
    """Our side of dialling. Its callers set deadlines around it."""

    def __init__(
        self,
        control: Transport,
        credentials: Callable[[], Credentials],
        settings: DiallerSettings,
        measured: Callable[[PeerId, bool, float], None],
    ) -> None:
        """`measured` is told of every round trip: the peer, whether it was the direct path, seconds."""
        self._control = control
        self._credentials = credentials
        self._settings = settings
        self._measured = measured
        self.acquaintances: dict[PeerId, Acquaintance] = {}
        """The peers that we can dial without asking again."""
        self._meeting: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()

    async def dial(self, peer: PeerId, protocol: str) -> DirectChannel:
        """A connection that the peer accepts for `protocol` and that is not started yet. Raises `PeerError`s."""
        known, fresh = await self.meet(peer)
        try:
            return await self.try_addresses(peer, known, protocol)
        except TurnedAway:
            raise
        except (OSError, PeerError) as error:
            if self.acquaintances.get(peer) is known:
                del self.acquaintances[peer]
            if fresh:
                raise PeerUnreachable(f"{peer} cannot be dialled: {error}", peer=peer) from error
        # What we knew may have been out of date (it restarted, or forgot us): ask once more.
        known, _ = await self.meet(peer)
        try:
            return await self.try_addresses(peer, known, protocol)
        except OSError as error:
            raise PeerUnreachable(f"{peer} cannot be dialled: {error}", peer=peer) from error

    async def meet(self, peer: PeerId) -> tuple[Acquaintance, bool]:
        """Exchange certificates over the control path, unless that was done lately (False)."""
        lock = self._meeting.setdefault(peer, asyncio.Lock())
        async with lock:
            known = self.acquaintances.get(peer)
            if known is not None and known.expires > _now():
                return known, False
            credentials = self._credentials()
            try:
                channel = await self._control.open(peer, DIRECT_PROTOCOL, timeout=self._settings.introduction_seconds)
            except PeerError as error:
                raise NotIntroduced(f"{peer} was not introduced: {error}", peer=peer) from error
            try:
                began = time.perf_counter()
                await channel.send(encode(Introduce(credentials.certificate)))
                answer = await answer_on(channel)
                self._measured(peer, False, time.perf_counter() - began)
            finally:
                await channel.aclose()
            if not isinstance(answer, Introduced) or not answer.addresses:
                reason = answer.reason if isinstance(answer, Declined) else "it gave no address"
                raise NotIntroduced(f"{peer} cannot be dialled: {reason}", peer=peer)
            if verify_certificate(answer.certificate) != peer:
                raise ProtocolViolation("it introduced itself with the certificate of another peer", peer=peer)
            known = Acquaintance(
                answer,
                credentials.context(answer.certificate, server=False),
                _now() + min(answer.seconds, self._settings.most_seconds),
            )
            while len(self.acquaintances) >= _MAX_ACQUAINTANCES:
                del self.acquaintances[next(iter(self.acquaintances))]
            self.acquaintances[peer] = known
            return known, True

    async def try_addresses(self, peer: PeerId, known: Acquaintance, protocol: str) -> DirectChannel:
        """The first address that leads to the peer wins; each gets a head start before the next is tried too."""
        waiting = list(known.introduced.addresses)
        running: set[asyncio.Task[DirectChannel]] = set()
        failure: OSError | PeerError | None = None
        try:
            while waiting or running:
                if waiting:
                    address = waiting.pop(0)
                    running.add(asyncio.create_task(self._connect(peer, known, address, protocol)))
                done, running = await asyncio.wait(
                    running, timeout=_STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception()
                    if error is None:
                        running |= done - {task}
                        return task.result()
                    if isinstance(error, TurnedAway) or not isinstance(error, OSError | PeerError):
                        raise error
                    failure = error
            raise failure or PeerUnreachable("it gave no address", peer=peer)
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(_abort_surplus)
            if running:
                await asyncio.wait(running)

    async def _connect(self, peer: PeerId, known: Acquaintance, address: Address, protocol: str) -> DirectChannel:
        loop = asyncio.get_running_loop()
        channel = DirectChannel(StreamSettings(limits=MESSAGE_LIMITS, frame_timeout=self._settings.seconds))
        try:
            sock = await _tcp(address)
            try:
                await loop.create_connection(
                    lambda: channel,
                    sock=sock,
                    ssl=known.context,
                    server_hostname=known.introduced.token,
                    ssl_shutdown_timeout=CLOSE_TIMEOUT,
                )
            finally:
                if not channel.connected:
                    sock.close()
            _check_certificate(channel.transport, known)
            began = time.perf_counter()
            await channel.send(encode(Hello(protocol)))
            answer = await answer_on(channel)
            self._measured(peer, True, time.perf_counter() - began)
            _check_answer(answer, peer)
        except BaseException:
            channel.abort("the connection was not completed")
            raise
        # Next time this address comes first.
        first = (address, *(other for other in known.introduced.addresses if other != address))
        known.introduced = Introduced(
            known.introduced.certificate, first, known.introduced.token, known.introduced.seconds
        )
        return channel

    async def dial_raw(self, peer: PeerId, protocol: str) -> Streams:
        """The bare byte stream of a channel that has started inside TLS: a hostile peer's view, for tests."""
        known, _ = await self.meet(peer)
        sock = await _tcp(known.introduced.addresses[0])
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=known.context, server_hostname=known.introduced.token
        )
        hello = encode(Hello(protocol))
        writer.write(encode_prefix(hello, MESSAGE_LIMITS) + hello.header)
        size, _ = decode_prefix(await reader.readexactly(PREFIX.size), MESSAGE_LIMITS)
        _check_answer(decode(Frame(await reader.readexactly(size))), peer)
        start = encode(Start())
        writer.write(encode_prefix(start, MESSAGE_LIMITS) + start.header)
        return reader, writer


async def answer_on(channel: Channel) -> Message:
    """The next message on a channel. Raises `PeerError`s that name the peer."""
    frame = await channel.receive()
    if frame is None:
        raise PeerUnreachable("it closed instead of an answer", peer=channel.peer)
    try:
        return decode(frame)
    except ProtocolViolation as error:
        error.peer = channel.peer
        raise


async def _tcp(address: Address) -> socket.socket:
    """A connected, tuned socket."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_certificate(transport: asyncio.Transport, known: Acquaintance) -> None:
    tls = transport.get_extra_info("ssl_object")
    if tls.version() != "TLSv1.3" or tls.getpeercert(True) != known.introduced.certificate:
        raise ProtocolViolation("it showed another certificate than it was introduced with")


def _check_answer(answer: Message, peer: PeerId) -> None:
    match answer:
        case Accepted():
            return
        case Declined(reason=reason):
            raise TurnedAway(f"{peer}: {reason}", peer=peer)
        case _:
            raise ProtocolViolation(f"a {answer.kind!r} message answers no hello", peer=peer)


def _abort_surplus(task: asyncio.Task[DirectChannel]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort("another address was faster")


def _now() -> float:
    return time.monotonic()
