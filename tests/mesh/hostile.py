"""Peers that are played by hand beside an honest session."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh.client.types import GenerateRequest
from mesh.transport.port import Channel
from mesh.wire.messages import (
    RING_PROTOCOL,
    SessionOpened,
)
from shards.engine.sampling_params import SamplingParams
from tests.mesh.stranger import PROMPT, SPANS, Stranger, stranger
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, until

A, B = b"a" * 16, b"b" * 16


class Bystander:
    """An honest generation that runs meanwhile, and must end as if nothing had happened."""

    def __init__(self, swarm: MemorySwarm) -> None:
        self._swarm = swarm
        self._request = GenerateRequest(MODEL, PROMPT, 150, SamplingParams(temperature=0.7, seed=5), ignore_eos=True)

    async def __aenter__(self) -> bytes:
        """Returns its session's id."""
        self._alone = await self._swarm.generate(self._request)
        self._task = asyncio.create_task(self._swarm.generate(self._request))
        table = self._swarm.services[0].table
        await until(lambda: any(session.expected > len(PROMPT) for session in table))
        return next(iter(table)).id

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        answer = await self._task
        assert answer.tokens == self._alone.tokens
        assert not self._swarm.backend._penalised, "it never had to change its route"
        for provider in self._swarm.providers:
            assert not provider.task.done()


async def open_middle(swarm: MemorySwarm, session: bytes = A, **changes: Any) -> tuple[Stranger, Channel]:
    """A session on the last stage whose previous hop is the stranger itself, and its ring channel."""
    villain = await stranger(swarm, 1)
    assert await villain.ask(villain.opening(session, SPANS[1], **changes)) == SessionOpened(session)
    ring = await villain.transport.open(swarm.providers[1].peer, RING_PROTOCOL)
    return villain, ring
