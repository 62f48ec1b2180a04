"""Tells which path each pair of peers uses: what a node answers on `/mesh/pairs/1`, and how to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mesh.errors import PeerTimeout
from mesh.transport.port import Channel, Handler, PeerId, Transport
from mesh.transport.question import ask
from mesh.wire.pairs import PAIRS_PROTOCOL, PairState, decode, encode

ANSWER_SECONDS = 5.0


def pairs_handler(pairs: Callable[[], Awaitable[Sequence[PairState]]]) -> Handler:
    """A handler that answers with what `pairs` returns."""

    async def answer(channel: Channel) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await channel.send(encode(await pairs()))
        except TimeoutError:
            raise PeerTimeout("it did not read our answer", peer=channel.peer) from None

    return answer


async def ask_pairs(transport: Transport, peer: PeerId, *, timeout: float = ANSWER_SECONDS) -> tuple[PairState, ...]:
    """The pairs of another node. Raises `PeerError`s."""
    return decode(await ask(transport, peer, PAIRS_PROTOCOL, None, timeout=timeout))
