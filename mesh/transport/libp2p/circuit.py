"""Asks a relay for a circuit to a peer that cannot be dialled: libp2p's circuit relay v2, the dialler's side.

See github.com/libp2p/specs, relay/circuit-v2.md. What comes through the circuit is a connection like any other: the
peer proves itself in it, and the relay sees what Noise lets it see, which is how much.
"""

from __future__ import annotations

from typing import Final

from mesh.errors import PeerUnreachable, ProtocolViolation
from mesh.transport import _libp2p
from mesh.transport.libp2p.negotiation import Bytes
from mesh.transport.port import PeerId

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"
_MAX_MESSAGE: Final = 4096  # bytes, as in the specification


async def connect(stream: Bytes, peer: PeerId) -> None:
    """Have the relay at the other end of `stream` connect it to `peer`: what follows on it is the peer's.

    Raises `PeerUnreachable` with the relay's reason, `ProtocolViolation` or `OSError`.
    """
    h = _libp2p.load()
    hop, status = h.circuit.HopMessage, h.circuit.Status
    request = hop(type=hop.CONNECT, peer=h.circuit.PeerId(id=h.ID.from_base58(peer).to_bytes())).SerializeToString()
    await stream.write(bytes((len(request),)) + request)
    try:
        answer = hop.FromString(await _read_message(stream))
    except h.DecodeError as error:
        raise ProtocolViolation("the relay's answer is no message") from error
    if answer.type != hop.STATUS:
        raise ProtocolViolation("the relay answers something else than was asked")
    if answer.status != status.OK:
        known = status.Name(answer.status) if answer.status in status.values() else answer.status
        raise PeerUnreachable(f"the relay does not lead to it: {known}", peer=peer)


async def _read_message(stream: Bytes) -> bytes:
    size = shift = 0
    while True:
        byte = (await stream.read(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if size > _MAX_MESSAGE or shift > 21:
            raise ProtocolViolation("a message of the relay that is too long")
        if byte < 0x80:
            return await stream.read(size)
