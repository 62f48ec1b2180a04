"""What a peer says when it introduces itself by hand, rightly or not."""

from __future__ import annotations

import asyncio
import ssl

from mesh.transport.direct.certificate import Credentials
from mesh.transport.direct.door import DoorSettings
from mesh.transport.direct.transport import DirectSettings
from mesh.wire.direct import (
    DIRECT_PROTOCOL,
    MESSAGE_LIMITS,
    Declined,
    Hello,
    Introduce,
    Introduced,
    Start,
    decode,
    encode,
)
from mesh.wire.frame import encode_prefix
from tests.mesh.direct.duo import PROTOCOL, Side

IMPATIENT = DirectSettings(door=DoorSettings(seconds=0.5))


async def introduce(side: Side, to: Side, credentials: Credentials) -> Introduced | Declined:
    """What `to` answers when `side` introduces itself with `credentials` over the control path."""
    channel = await side.control.open(to.peer_id, DIRECT_PROTOCOL)
    await channel.send(encode(Introduce(credentials.certificate)))
    frame = await channel.receive()
    assert frame is not None
    await channel.aclose()
    answer = decode(frame)
    assert isinstance(answer, Introduced | Declined)
    return answer


async def hello(
    address: tuple[str, int], context: ssl.SSLContext, name: str, data: bytes | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial by hand, say hello and start (or say `data`)."""
    reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
    usual = b"".join(
        encode_prefix(frame, MESSAGE_LIMITS) + frame.header for frame in (encode(Hello(PROTOCOL)), encode(Start()))
    )
    writer.write(usual if data is None else data)
    return reader, writer
