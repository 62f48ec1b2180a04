"""The transport over direct TLS 1.3 connections, one per channel, between peers introduced over another transport.

Before the first connection the two peers exchange certificates over the control path, which has proved who they are.
The dialler then takes no certificate but that one, and shows its own, which is the only one that the token in its
server name admits. docs/protocol.md explains why this keeps out strangers, replays and men in the middle.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mesh.errors import InternalError, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.identity import Identity
from mesh.transport.channels import Channels, TransportSettings
from mesh.transport.direct.certificate import BACKDATED, VALIDITY, Credentials, verify_certificate
from mesh.transport.direct.channel import DirectChannel
from mesh.transport.direct.dialler import Dialler, DiallerSettings, answer_on
from mesh.transport.direct.door import Door, DoorSettings
from mesh.transport.direct.invitations import Invitation, Invitations
from mesh.transport.direct.liveness import SILENCE_SECONDS, silent
from mesh.transport.memory import Streams, connect
from mesh.transport.port import Channel, Handler, PeerId, Transport
from mesh.wire.direct import (
    DIRECT_PROTOCOL,
    MAX_ADDRESSES,
    Accepted,
    Declined,
    Introduce,
    Introduced,
    Start,
    encode,
)

log = logging.getLogger(__name__)

_LIVENESS_SECONDS = 1.0
_STAGGER = 0.25  # seconds before the next address is tried beside one that has not answered (RFC 8305)
_MAX_ACQUAINTANCES = 1024


@dataclass(frozen=True, slots=True)
class DirectSettings:
    """The bounds of the direct transport."""

    transport: TransportSettings = field(default_factory=TransportSettings)
    door: DoorSettings = field(default_factory=DoorSettings)
    invitation_seconds: float = 600.0
    invitations: int = 4096
    introduction_seconds: float = 10.0
    """For one question on an introduction channel."""


class DirectTransport:
    """A `Transport` to peers that can be dialled. `control` introduces them, and outlives this transport."""

    def __init__(
        self,
        identity: Identity,
        control: Transport,
        *,
        hosts: tuple[str, ...] = ("127.0.0.1",),
        port: int = 0,
        addresses: Callable[[], Iterable[str]] | None = None,
        settings: DirectSettings | None = None,
    ) -> None:
        """Listens on `port` of `hosts` (no hosts: dials only); tells peers to dial `addresses()` (default: `hosts`)."""
        if control.peer_id != identity.peer_id:
            raise InternalError("the control path has another peer id")
        self._identity = identity
        self._control = control
        self._hosts = hosts
        self._port = port
        self._addresses = addresses or (lambda: hosts)
        self._settings = settings or DirectSettings()
        self._channels = Channels(self._settings.transport)
        self._handlers: dict[str, Handler] = {}
        self._credentials = [Credentials.create(identity)]
        self._invitations = Invitations(seconds=self._settings.invitation_seconds, limit=self._settings.invitations)
        self._door = Door(self._settings.door, self._credentials[0], self._find, self._judge, self._entered)
        self._dialler = Dialler(
            control,
            self._current_credentials,
            DiallerSettings(
                self._settings.door.seconds, self._settings.introduction_seconds, self._settings.invitation_seconds
            ),
            lambda peer, direct, seconds: self.on_round_trip(peer, direct, seconds),
        )
        self._live: set[DirectChannel] = set()
        self._watch: asyncio.Task[None] | None = None
        self.on_round_trip: Callable[[PeerId, bool, float], None] = lambda peer, direct, seconds: None
        """Told of every measured round trip: the peer, whether it was the direct path, seconds."""

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def port(self) -> int | None:
        """The port that we listen on."""
        ports = self._door.ports
        return ports[0][1] if ports else None

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` when the port cannot be listened on."""
        self._door.listen(self._hosts, self._port)
        try:
            await self._control.serve(DIRECT_PROTOCOL, self._introduce_us)
        except BaseException:
            await self._door.aclose()
            raise
        self._watch = asyncio.create_task(self._watch_liveness(), name="direct connections")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channels.closed = True
        await self._door.aclose()
        self._handlers.clear()
        await self._channels.aclose()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})

    async def serve(self, protocol: str, handler: Handler) -> None:
        if protocol in self._handlers:
            raise InternalError(f"{protocol} is served already")
        self._handlers[protocol] = handler

    async def open(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> Channel:
        """As the port says; `TurnedAway` and `NotIntroduced` tell why it was not the address's fault."""
        if peer == self.peer_id:
            if self._channels.closed:
                raise PeerUnreachable("the transport is closed", peer=peer)
            return self._channels.opened(peer, *connect(peer, peer, self._channels, self._handlers, protocol))
        return self.start(await self.prepare(peer, protocol, timeout=timeout), peer)

    async def prepare(self, peer: PeerId, protocol: str, *, timeout: float = 10.0) -> DirectChannel:
        """A connection that the peer accepts for `protocol`, to be handed to `start`, or aborted without effect."""
        if self._channels.closed:
            raise PeerUnreachable("the transport is closed", peer=peer)
        try:
            async with asyncio.timeout(timeout):
                return await self._dialler.dial(peer, protocol)
        except TimeoutError:
            raise PeerTimeout(f"{peer} could not be reached directly in {timeout:g} s", peer=peer) from None

    def start(self, channel: DirectChannel, peer: PeerId) -> Channel:
        """Begin the channel; its handler at the other end runs from now on. Raises `PeerUnreachable`."""
        channel.send_now(encode(Start()))
        self._take_charge(channel, peer)
        return channel

    async def open_raw(self, peer: PeerId, protocol: str) -> Streams:
        """The bare byte stream of a new channel inside TLS: a hostile peer's view, for tests."""
        if peer == self.peer_id:
            return connect(peer, peer, self._channels, self._handlers, protocol)
        return await self._dialler.dial_raw(peer, protocol)

    # The dialled

    async def _introduce_us(self, channel: Channel) -> None:
        """Answer one introduction on the control path, which has proved who asks."""
        try:
            async with asyncio.timeout(self._settings.introduction_seconds):
                request = await answer_on(channel)
                if not isinstance(request, Introduce):
                    raise ProtocolViolation(f"a {request.kind!r} message makes no sense here", peer=channel.peer)
                await channel.send(encode(self._invite(channel.peer, request.certificate)))
        except TimeoutError:
            raise PeerTimeout("it did not introduce itself", peer=channel.peer) from None

    def _invite(self, peer: PeerId, certificate: bytes) -> Introduced | Declined:
        port = self.port
        if port is None or self._channels.closed:
            return Declined("this node has no direct port")
        try:
            owner = verify_certificate(certificate)
        except ProtocolViolation as error:
            return Declined(str(error)[:200])
        if owner != peer:
            return Declined("that is the certificate of another peer")
        own = self._current_credentials().certificate
        addresses = tuple(dict.fromkeys((host, port) for host in self._addresses()))[:MAX_ADDRESSES]
        invitation = self._invitations.invite(peer, certificate, own, now=_now())
        return Introduced(own, addresses, invitation.token, self._settings.invitation_seconds)

    def _find(self, token: str | None) -> tuple[Invitation, Credentials] | None:
        invitation = self._invitations.find(token, now=_now())
        if invitation is None:
            return None
        for credentials in self._credentials:
            if credentials.certificate == invitation.own:
                return invitation, credentials
        return None

    def _judge(self, peer: PeerId, protocol: str) -> Accepted | Declined:
        if protocol not in self._handlers:
            return Declined(f"this node does not serve {protocol[:100]}")
        if not self._channels.has_room(peer):
            log.debug("%s: refused a channel from %s: too many are open", protocol, peer)
            return Declined("too many channels are open")
        return Accepted()

    def _entered(self, channel: DirectChannel, peer: PeerId, protocol: str) -> None:
        handler = self._handlers.get(protocol)
        if handler is None or self._channels.is_full(peer):  # which another one took in the meantime
            channel.abort("too many channels are open")
            return
        self._take_charge(channel, peer)
        self._channels.handle(channel, protocol, handler)

    def _take_charge(self, channel: DirectChannel, peer: PeerId) -> None:
        channel.promote(peer, self._settings.transport.stream, on_close=self._forget, on_unfinished=self._channels.hold)
        if not channel.closed:
            self._live.add(channel)
        self._channels.adopt(channel)

    def _current_credentials(self) -> Credentials:
        """Ours, renewed half-way through their validity; those before still serve whom they were shown to.

        Those that expire later than any of now would were made when our clock was ahead: others may not take them.
        """
        left = self._credentials[0].expires - datetime.datetime.now(datetime.UTC)
        if not VALIDITY / 2 <= left <= VALIDITY + BACKDATED / 2:
            self._credentials = [Credentials.create(self._identity), self._credentials[0]]
        return self._credentials[0]

    def _forget(self, channel: DirectChannel) -> None:
        self._live.discard(channel)
        self._channels.forget(channel)

    async def _watch_liveness(self) -> None:
        while True:
            await asyncio.sleep(_LIVENESS_SECONDS)
            for channel in tuple(self._live):
                if silent(channel.transport.get_extra_info("socket")):
                    channel.abort(f"the peer has been silent for {SILENCE_SECONDS:g} s")


def _now() -> float:
    return time.monotonic()
