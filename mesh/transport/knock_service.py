"""Whether a node's addresses can be dialled from outside: what a node answers on `/mesh/knock/1`, and how to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from mesh.errors import PeerFailed, PeerTimeout, ProtocolViolation
from mesh.transport.port import Channel, Handler, PeerId, Transport
from mesh.transport.question import ask
from mesh.wire.knock import (
    KNOCK_PROTOCOL,
    MAX_KNOCKS,
    Knock,
    KnockAnswer,
    Knocked,
    Outcome,
    check_answer,
    decode,
    encode,
    seen_from,
    tcp_of,
)

ANSWER_SECONDS = 8.0
DIAL_SECONDS = 3.0
AT_ONCE = 4
"""Askers that are served at a time; more get no answer."""
GREETING = b"\x13/multistream/1.0.0\n"
"""What both ends of a libp2p connection say first (https://github.com/multiformats/multistream-select)."""


def knock_handler(connections: Callable[[PeerId], Awaitable[Sequence[str]]]) -> Handler:
    """A handler that dials the asker's addresses; `connections` are those at its ends of our connections with it."""
    busy = 0

    async def answer(channel: Channel) -> None:
        nonlocal busy
        if busy >= AT_ONCE:
            return
        busy += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                frame = await channel.receive()
                question = None if frame is None else decode(frame)
                if not isinstance(question, Knock):
                    raise ProtocolViolation("it asked for nothing")
                seen = seen_from(await connections(channel.peer))
                outcomes = await asyncio.gather(*(_dial(tcp_of(maddr, seen)) for maddr in question.maddrs))
                knocked = tuple(map(Knocked, question.maddrs, outcomes))
                await channel.send(encode(KnockAnswer(seen, knocked)))
        except TimeoutError:
            raise PeerTimeout("it asked too slowly, or did not read our answer", peer=channel.peer) from None
        finally:
            busy -= 1

    return answer


async def _dial(place: tuple[str, int] | None) -> Outcome:
    if place is None:
        return "elsewhere"
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            reader, writer = await asyncio.open_connection(*place)
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "closed"
    except OSError:
        return "silent"
    try:
        with suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(DIAL_SECONDS):
                writer.write(GREETING)
                if await reader.readexactly(len(GREETING)) == GREETING:
                    return "open"
        return "other"
    finally:
        writer.transport.abort()


async def ask_to_knock(
    transport: Transport, peer: PeerId, maddrs: Sequence[str], *, timeout: float = ANSWER_SECONDS
) -> KnockAnswer:
    """What `peer` finds where it dials the first `MAX_KNOCKS` of our addresses. Raises `PeerError`s."""
    asked = tuple(maddrs[:MAX_KNOCKS])
    answer = decode(await ask(transport, peer, KNOCK_PROTOCOL, encode(Knock(asked)), timeout=timeout))
    if not isinstance(answer, KnockAnswer):
        raise PeerFailed("it closed without an answer", peer=peer)
    return check_answer(asked, answer)
