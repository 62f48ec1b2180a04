"""One question on a channel of its own, and its answer."""

from __future__ import annotations

import asyncio

from mesh.errors import PeerFailed, PeerTimeout
from mesh.transport.port import PeerId, Transport
from mesh.wire.frame import Frame


async def ask(transport: Transport, peer: PeerId, protocol: str, question: Frame | None, *, timeout: float) -> Frame:
    """The answer to `question`; where that is None, opening the channel asks. `timeout` (seconds) is for all of it.

    Raises `PeerError`s: `PeerTimeout`, and `PeerFailed` where the peer closes without an answer.
    """
    try:
        async with asyncio.timeout(timeout):
            channel = await transport.open(peer, protocol, timeout=timeout)
            try:
                if question is not None:
                    await channel.send(question)
                frame = await channel.receive()
            finally:
                await channel.aclose()
    except TimeoutError:
        raise PeerTimeout(f"{peer} did not answer within {timeout:g} s", peer=peer) from None
    if frame is None:
        raise PeerFailed("it closed without an answer", peer=peer)
    return frame
