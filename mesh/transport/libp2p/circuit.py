"""Asks a relay for a circuit to a peer that cannot be dialled: libp2p's circuit relay v2, the dialler's side.

See github.com/libp2p/specs, relay/circuit-v2.md. What comes through the circuit is a connection like any other: the
peer proves itself in it, and the relay sees what Noise lets it see, which is how much.
"""

from __future__ import annotations

from mesh.errors import PeerUnreachable, ProtocolViolation
from mesh.transport.libp2p.negotiation import Bytes
from mesh.transport.port import PeerId
from mesh.wire.circuit import MAX_MESSAGE, Status, hop_connect, read_answer


async def connect(stream: Bytes, peer: PeerId) -> None:
    """Have the relay at the other end of `stream` connect it to `peer`: what follows on it is the peer's.

    Raises `PeerUnreachable` with the relay's reason, `ProtocolViolation` or `OSError`.
    """
    await stream.write(hop_connect(peer))
    status = read_answer(await _read_message(stream)).status
    if status != Status.OK:
        known = Status(status).name if status in set(Status) else status
        raise PeerUnreachable(f"the relay does not lead to it: {known}", peer=peer)


async def _read_message(stream: Bytes) -> bytes:
    size = shift = 0
    while True:
        byte = (await stream.read(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if size > MAX_MESSAGE or shift > 21:
            raise ProtocolViolation("a message of the relay that is too long")
        if byte < 0x80:
            return await stream.read(size)
