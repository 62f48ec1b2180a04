"""The direct port: who may knock how often, the TLS handshake of those who were invited, and their hello."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

from mesh.errors import ConfigError, PeerError, ProtocolViolation
from mesh.transport.direct.certificate import Credentials
from mesh.transport.direct.channel import CLOSE_TIMEOUT, DirectChannel
from mesh.transport.direct.invitations import Invitation
from mesh.transport.direct.liveness import tune
from mesh.transport.port import PeerId
from mesh.transport.streams import StreamSettings
from mesh.wire.direct import MESSAGE_LIMITS, Accepted, Declined, Hello, Start, decode, encode

log = logging.getLogger(__name__)

M = TypeVar("M", Hello, Start)

_BACKLOG = 128
_CONTEXTS = 256  # TLS contexts kept; one more is made in a millisecond
_ACCEPT_PAUSE = 0.2  # seconds without accepting when the system has no more file descriptors


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """Bounds on those who have not proved yet who they are."""

    seconds: float = 5.0
    """For the TLS handshake and everything up to the start of the channel."""
    strangers: int = 128
    """Connections in that state; one more breaks off the oldest, so that whoever is slow loses first."""
    strangers_per_host: int = 64
    """The same, from one IP address."""


class Door:
    """Listens on the direct port. `entered` gets every channel that came through, with its peer and protocol."""

    def __init__(
        self,
        settings: DoorSettings,
        credentials: Credentials,
        find: Callable[[str | None], tuple[Invitation, Credentials] | None],
        judge: Callable[[PeerId, str], Accepted | Declined],
        entered: Callable[[DirectChannel, PeerId, str], None],
    ) -> None:
        """`find` returns the invitation of a token and the credentials that its guest expects to see.

        `judge` says whether a peer may have a channel for a protocol.
        """
        self._settings = settings
        self._find = find
        self._judge = judge
        self._entered = entered
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._strangers: OrderedDict[asyncio.Task[None], str] = OrderedDict()
        self._hosts: Counter[str] = Counter()
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()
        self._guests: WeakKeyDictionary[ssl.SSLContext, Invitation] = WeakKeyDictionary()
        # It admits nobody: a token that we gave out leads to the context of that one guest.
        self._context = credentials.context(None, server=True)
        self._context.sni_callback = self._named

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every listening socket."""
        return tuple(sock.getsockname()[:2] for sock in self._sockets)

    def listen(self, hosts: Iterable[str], port: int) -> None:
        """Bind and accept; every host gets the same port (0: a free one). Raises `ConfigError`."""
        try:
            for host in hosts:
                sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
                self._sockets.append(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tune(sock)
                sock.bind((host, port))
                port = sock.getsockname()[1]
                sock.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            self._close_sockets()
            raise ConfigError(f"cannot listen for direct connections on {host} port {port}: {error}") from error
        for sock in self._sockets:
            self._accepting.append(asyncio.create_task(self._accept(sock), name="direct port"))

    async def aclose(self) -> None:
        """Stop listening and break off all who have not entered."""
        tasks = [*self._accepting, *self._strangers]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._accepting.clear()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:  # out of file descriptors, or the caller has left already
                log.warning("the direct port accepts nothing for a moment: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            self._make_room(address[0])
            task = asyncio.create_task(self._receive(sock), name=f"direct handshake {address[0]}")
            self._strangers[task] = address[0]
            self._hosts[address[0]] += 1
            task.add_done_callback(self._done)

    def _make_room(self, host: str) -> None:
        """Break off the oldest handshake where there are too many."""
        if self._hosts[host] >= self._settings.strangers_per_host:
            oldest = next(task for task, other in self._strangers.items() if other == host)
        elif len(self._strangers) >= self._settings.strangers:
            oldest = next(iter(self._strangers))
        else:
            return
        self._forget(oldest)
        oldest.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        host = self._strangers.pop(task, None)
        if host is not None:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def _done(self, task: asyncio.Task[None]) -> None:
        self._forget(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug in the direct port", exc_info=error)

    async def _receive(self, sock: socket.socket) -> None:
        channel = DirectChannel(StreamSettings(limits=MESSAGE_LIMITS, frame_timeout=self._settings.seconds))
        try:
            tune(sock)
            async with asyncio.timeout(self._settings.seconds):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: channel,
                    sock,
                    ssl=self._context,
                    ssl_handshake_timeout=self._settings.seconds,
                    ssl_shutdown_timeout=CLOSE_TIMEOUT,
                )
                invitation = self._admitted(channel)
                hello = await _next(channel, Hello)
                answer = self._judge(invitation.peer, hello.protocol)
                if isinstance(answer, Declined):
                    channel.dismiss(encode(answer))
                    return
                channel.send_now(encode(answer))
                await _next(channel, Start)
        except (OSError, PeerError) as error:  # TimeoutError is an OSError
            channel.abort("the handshake failed")
            log.debug("direct port: turned somebody away: %s", error)
        except BaseException:
            channel.abort("the handshake was broken off")
            raise
        else:
            self._entered(channel, invitation.peer, hello.protocol)
        finally:
            if not channel.connected:
                sock.close()

    def _admitted(self, channel: DirectChannel) -> Invitation:
        """Who this is: TLS has proved that it holds the key of its certificate; now whose certificate that is."""
        tls = channel.transport.get_extra_info("ssl_object")
        invitation = self._guests.get(tls.context)
        if invitation is None or tls.version() != "TLSv1.3" or tls.getpeercert(True) != invitation.certificate:
            raise ProtocolViolation("a certificate that was not invited")
        return invitation

    def _named(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """TLS asks which context serves the name that the client gave: the one of the guest with that token."""
        found = self._find(name)
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        invitation, credentials = found
        context = self._contexts.get(invitation.token)
        if context is None:
            context = credentials.context(invitation.certificate, server=True)
            self._contexts[invitation.token] = context
            if len(self._contexts) > _CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(invitation.token)
        self._guests[context] = invitation
        tls.context = context
        return None


async def _next(channel: DirectChannel, expected: type[M]) -> M:
    frame = await channel.receive()
    if frame is None:
        raise ProtocolViolation("it left without a word")
    message = decode(frame)
    if not isinstance(message, expected):
        raise ProtocolViolation(f"a {message.kind!r} message where another is due")
    return message
