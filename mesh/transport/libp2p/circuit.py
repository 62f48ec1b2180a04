"""Asks a relay for a circuit to a peer that cannot be dialled: libp2p's circuit relay v2, the dialler's side.

See github.com/libp2p/specs, relay/circuit-v2.md. What comes through the circuit is a connection like any other: the
peer proves itself in it, and the relay sees what Noise lets it see, which is how much.
"""

from __future__ import annotations

from mesh.errors import PeerUnreachable
from mesh.transport.libp2p.negotiation import Bytes
from mesh.transport.port import PeerId
from mesh.transport.relay.reading import read_message
from mesh.wire.circuit import Status, hop_connect, read_answer


async def connect(stream: Bytes, peer: PeerId) -> None:
    """Have the relay at the other end of `stream` connect it to `peer`: what follows on it is the peer's.

    Raises `PeerUnreachable` with the relay's reason, `ProtocolViolation` or `OSError`.
    """
    await stream.write(hop_connect(peer))
    status = read_answer(await read_message(stream.read)).status
    if status != Status.OK:
        known = Status(status).name if status in set(Status) else status
        raise PeerUnreachable(f"the relay does not lead to it: {known}", peer=peer)
