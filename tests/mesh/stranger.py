"""A peer that does not keep to the protocol, played by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from msgspec.structs import replace as change

from mesh.errors import PeerError
from mesh.identity import Identity
from mesh.transport.memory import MemoryTransport
from mesh.transport.port import Channel, Handler
from mesh.wire.messages import CONTROL_PROTOCOL, RING_PROTOCOL, Message, OpenSession, decode, encode
from mesh.wire.sampling import to_wire
from mesh.wire.work import Work
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MemorySwarm
from tests.shards.stages import random_tokens

SPANS = (Span(0, 2), Span(2, 5))
WIDTH = 48
PROMPT = tuple(random_tokens(10))
FIXED, BIAS = to_wire(SamplingParams())


@dataclass(slots=True)
class Stranger:
    """A peer that says what it likes on a control channel to one provider."""

    peer: str
    transport: MemoryTransport
    control: Channel
    digest: str

    async def say(self, message: Message, payload: bytes = b"") -> None:
        await self.control.send(encode(message, payload))

    async def hear(self) -> Message:
        while True:
            async with asyncio.timeout(5):
                frame = await self.control.receive()
            assert frame is not None, "the channel was closed"
            if not isinstance(message := decode(frame), Work):  # strangers do not ask what is signed
                return message

    async def ask(self, message: Message, payload: bytes = b"") -> Message:
        await self.say(message, payload)
        return await self.hear()

    async def hears_the_end(self) -> None:
        """The provider has broken off."""
        with pytest.raises(PeerError):
            async with asyncio.timeout(5):
                while await self.control.receive() is not None:
                    pass
                raise PeerError("closed", peer=self.peer)

    def opening(self, session: bytes, span: Span, **changes: Any) -> OpenSession:
        opening = OpenSession(
            session=session,
            digest=self.digest,
            start=span.start,
            end=span.end,
            previous=self.peer,
            following=self.peer,
            prompt_tokens=len(PROMPT),
            fed_tokens=len(PROMPT),
            capacity=40,
            limit=40,
            eos=(),
            prompt_scores=False,
            wire_dtype="float32",
            sampling=FIXED,
            logit_bias=BIAS,
        )
        return change(opening, **changes)


async def drain(channel: Channel) -> None:
    while await channel.receive() is not None:
        pass


async def stranger(swarm: MemorySwarm, provider: int = 0, *, ring: Handler = drain) -> Stranger:
    peer = Identity.generate().peer_id
    transport = await swarm.transport(peer)
    await transport.serve(RING_PROTOCOL, ring)
    control = await transport.open(swarm.providers[provider].peer, CONTROL_PROTOCOL)
    return Stranger(peer, transport, control, swarm.files.digest)


def hidden(count: int, value: float = 0.1) -> bytes:
    return torch.full((count, WIDTH), value).numpy().tobytes()
