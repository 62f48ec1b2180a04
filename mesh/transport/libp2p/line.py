"""A TCP connection that Noise encrypts: awaited reads while both sides shake hands, callbacks from then on.

py-libp2p runs the handshake (Noise XX, libp2p's payload, the peer's signature) over `Wire`, which is all that it needs
of a connection; what it leaves is the pair of ciphers, which `Line` uses directly. So nothing here needs trio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from mesh.errors import ProtocolViolation
from mesh.identity import Identity, public_key_of
from mesh.transport import _libp2p
from mesh.transport.libp2p import negotiation
from mesh.transport.port import PeerId

NOISE: Final = "/noise"
MUXER: Final = "/yamux/1.0.0"
WRITE_HIGH: Final = 256 * 1024  # bytes that may wait for the kernel before streams are held back
_EARLY: Final = 128 * 1024  # bytes that a peer may send ahead during the handshake
_MAX_NOISE: Final = 65535
MAX_PLAIN: Final = _MAX_NOISE - 16
"""Bytes of one encrypted message at most."""


class Wire(asyncio.Protocol):
    """The bytes of a TCP connection."""

    def __init__(self, on_connected: Callable[[Wire], None] | None = None) -> None:
        """`on_connected` is called for a connection that somebody made to us."""
        self._on_connected = on_connected
        self.transport: asyncio.Transport
        self._early = bytearray()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._lost: Exception | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._on_room: Callable[[], None] = lambda: None
        self._on_lost: Callable[[Exception], None] = lambda _: None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        if self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink(data)
            return
        self._early += data
        self._arrived.set()
        if len(self._early) > _EARLY:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()
        self._on_room()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = error or ConnectionResetError("the peer closed the connection")
        self._arrived.set()
        self._room.set()
        self._on_lost(self._lost)

    # What the handshakes await; py-libp2p calls these too.

    async def read(self, n: int) -> bytes:
        """Exactly `n` bytes. Raises `OSError` when the connection ends first."""
        if n > _EARLY:
            raise ProtocolViolation(f"{n} bytes in a handshake")
        while len(self._early) < n:
            if self._lost is not None:
                raise ConnectionResetError(str(self._lost))
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._early[:n])
        del self._early[:n]
        if self._lost is None:
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send `data`. Raises `OSError` when the connection has ended."""
        if self._lost is None:
            self.transport.write(data)
            await self._room.wait()
        if self._lost is not None:
            raise ConnectionResetError(str(self._lost))

    async def close(self) -> None:
        """Break the connection off."""
        self.abort()

    # What the muxer uses.

    @property
    def full(self) -> bool:
        """True while more than `WRITE_HIGH` bytes wait for the kernel."""
        return not self._room.is_set()

    def start(
        self, sink: Callable[[bytes], None], on_room: Callable[[], None], on_lost: Callable[[Exception], None]
    ) -> None:
        """From now on call `sink` with what arrives, beginning with what has; `on_lost` once."""
        self._sink, self._on_room, self._on_lost = sink, on_room, on_lost
        if self._lost is None:
            self.transport.resume_reading()
        early, self._early = bytes(self._early), bytearray()
        if early:
            sink(early)
        if self._lost is not None:
            on_lost(self._lost)

    def abort(self) -> None:
        """Close the socket at once."""
        self.transport.abort()


class Line:
    """An encrypted connection to a proven peer."""

    def __init__(self, wire: Wire, peer: PeerId, ciphers: Any) -> None:
        """`ciphers` is what a finished Noise handshake left."""
        self.wire = wire
        self.peer = peer
        self._ciphers = ciphers
        self._forged: type[Exception] = _libp2p.load().NoiseInvalidMessage
        self._sealed = b""
        self._plain = bytearray()
        self._deliver: Callable[[bytes], None]

    async def read(self, n: int) -> bytes:
        """Exactly `n` bytes, until `start`. Raises `OSError` or `ProtocolViolation`."""
        while len(self._plain) < n:
            size = int.from_bytes(await self.wire.read(2), "big")
            self._plain += self._open(await self.wire.read(size))
        data = bytes(self._plain[:n])
        del self._plain[:n]
        return data

    async def write(self, data: bytes) -> None:
        """Send `data` and wait for room. Raises `OSError`."""
        self.send(data)
        await self.wire.write(b"")

    def send(self, data: bytes) -> None:
        """Send at most `MAX_PLAIN` bytes as one message; whoever calls looks after `wire.full`."""
        sealed: bytes = self._ciphers.encrypt(data)
        self.wire.transport.write(len(sealed).to_bytes(2, "big") + sealed)

    def start(
        self, deliver: Callable[[bytes], None], on_room: Callable[[], None], on_lost: Callable[[Exception], None]
    ) -> None:
        """From now on call `deliver` with what arrives."""
        self._deliver = deliver
        plain, self._plain = bytes(self._plain), bytearray()
        if plain:
            deliver(plain)
        self.wire.start(self._received, on_room, on_lost)

    def _received(self, data: bytes) -> None:
        sealed = memoryview(self._sealed + data if self._sealed else data)
        begin = 0
        try:
            while len(sealed) - begin >= 2:
                end = begin + 2 + int.from_bytes(sealed[begin : begin + 2], "big")
                if len(sealed) < end:
                    break
                plain = self._open(bytes(sealed[begin + 2 : end]))
                begin = end
                self._deliver(plain)
        except ProtocolViolation:
            self.wire.abort()
            begin = len(sealed)
        self._sealed = bytes(sealed[begin:])  # less than one message

    def _open(self, sealed: bytes) -> bytes:
        try:
            plain: bytes = self._ciphers.decrypt(sealed)
        except self._forged:
            raise ProtocolViolation("a message that its sender did not encrypt", peer=self.peer) from None
        return plain


class Shaker:
    """Makes `Line`s out of `Wire`s, as one identity."""

    def __init__(self, identity: Identity) -> None:
        h = _libp2p.load()
        secret = h.Ed25519PrivateKey.from_bytes(identity.to_protobuf()[4:36])
        # The Noise key is for this process only; each handshake signs it with the identity.
        self._noise = h.Noise(h.KeyPair(secret, secret.get_public_key()), h.new_noise_key().private_key)
        if self._noise.local_peer.to_base58() != identity.peer_id:
            raise ValueError("py-libp2p derives another peer id from our key")

    async def dial(self, wire: Wire, peer: PeerId) -> Line:
        """Be the one who dialled `peer`. Raises `PeerUnreachable`, `ProtocolViolation` or `OSError`."""
        h = _libp2p.load()
        await negotiation.propose(wire, NOISE)
        line = await self._secure(self._noise.secure_outbound(wire, h.ID.from_base58(peer)), wire)
        if line.peer != peer:
            raise ProtocolViolation("another peer answers there", peer=peer)
        await negotiation.propose(line, MUXER)
        return line

    async def admit(self, wire: Wire) -> Line:
        """Be the one who was dialled. Raises `ProtocolViolation` or `OSError`."""
        await negotiation.respond(wire, (NOISE,))
        line = await self._secure(self._noise.secure_inbound(wire), wire)
        await negotiation.respond(line, (MUXER,))
        return line

    async def _secure(self, handshake: Any, wire: Wire) -> Line:
        h = _libp2p.load()
        try:
            session = await handshake
            peer: str = session.get_remote_peer().to_base58()
            public_key_of(peer)  # raises ValueError for what is not Ed25519
        except h.handshake_errors as error:
            raise ProtocolViolation(f"the handshake failed: {error!r}"[:200]) from error
        return Line(wire, peer, session.conn.noise_state)
