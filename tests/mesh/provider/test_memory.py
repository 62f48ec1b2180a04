"""What sessions cost a stage beside their pages: little while they are idle, and nothing once they are closed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import torch

from mesh.client.session_plan import SessionPlan
from mesh.identity import Identity
from mesh.provider.config import ServiceConfig
from mesh.provider.stage.admission import AdmissionLimits
from mesh.transport.port import Channel
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    CloseSession,
    Message,
    NewToken,
    OpenSession,
    Prompt,
    SessionClosed,
    SessionOpened,
    decode,
    encode,
)
from mesh.wire.sampling import to_wire
from mesh.wire.tokens import token_payload
from shards.engine.engine import Engine
from shards.engine.sampling_params import SamplingParams
from shards.model.paging import PAGE
from shards.model.span import Span
from tests.mesh.swarm_in_memory import WIRE_DTYPE, MemorySwarm, memory_swarm, until
from tests.profile import LONG
from tests.shards.models import make_checkpoint

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(600 if LONG else 110)

VOCAB = 20_000
PAGE_BYTES = PAGE * 2 * 2 * 8 * 4 * 5
"""Of all blocks."""
NEW = 4
SESSIONS = 10_000 if LONG else 1_000
WARM = SamplingParams(temperature=0.8, seed=3, repetition_penalty=1.1)


class Opener:
    """A client that opens sessions by hand, many over one channel."""

    def __init__(self, swarm: MemorySwarm, channel: Channel, sampling: SamplingParams) -> None:
        self._swarm = swarm
        self._sampling = sampling
        self._early = 0
        """Tokens that came while something else was waited for."""
        self._channel = channel
        self._numbers = itertools.count(1)
        self._peer = swarm.providers[0].peer

    async def open(self, prompt: list[int], *, paused: bool = False) -> bytes:
        """A session that answers with `NEW` tokens, or stops after the first one until it is told to go on."""
        session = next(self._numbers).to_bytes(16)
        fed = len(prompt)
        plan = SessionPlan(
            digest=self._swarm.files.digest,
            wire_dtype=WIRE_DTYPE,
            vocab_size=self._swarm.files.spec.vocab_size,
            fed=tuple(prompt),
            prompt_tokens=fed,
            capacity=fed + NEW,
            eos=(),
            sampling=self._sampling,
            prompt_scores=False,
        )
        sampling, bias = to_wire(self._sampling)
        request = OpenSession(
            session=session,
            digest=plan.digest,
            start=0,
            end=5,
            previous=self._peer,
            following=self._peer,
            prompt_tokens=fed,
            fed_tokens=fed,
            capacity=plan.capacity,
            limit=fed if paused else plan.capacity,
            eos=(),
            prompt_scores=False,
            wire_dtype=WIRE_DTYPE,
            sampling=sampling,
            logit_bias=bias,
            keys=plan.keys_after(),
        )
        await self._channel.send(encode(request, token_payload(prompt)))
        opened = await self._next(SessionOpened)
        assert isinstance(opened, SessionOpened)
        await self._channel.send(encode(Prompt(session, opened.held), token_payload(prompt[opened.held :])))
        return session

    async def read(self, tokens: int) -> None:
        """Wait for so many, of whatever sessions."""
        tokens -= self._early
        self._early = 0
        for _ in range(tokens):
            await self._next(NewToken)

    async def close(self, session: bytes) -> None:
        await self._channel.send(encode(CloseSession(session, 0)))
        await self._next(SessionClosed)

    async def _next(self, wanted: type[Message]) -> Message:
        async with asyncio.timeout(30):
            while (frame := await self._channel.receive()) is not None:
                message = decode(frame)
                if isinstance(message, wanted):
                    return message
                if isinstance(message, NewToken):
                    self._early += 1
                    continue
                assert message.kind in ("progress", "work"), message
        raise AssertionError("the provider closed the channel")


@asynccontextmanager
async def stage(folder: Path, pages: int, sampling: SamplingParams) -> AsyncIterator[tuple[Opener, Engine]]:
    """One stage of the whole model, and a client to it."""
    limits = AdmissionLimits(sessions=1000, sessions_per_client=1000, kv_bytes=pages * PAGE_BYTES, client_share=1.0)
    config = ServiceConfig(  # rows kept for audits have a bound of their own
        limits, stranger_requests=(1e6, 1e6), client_requests=(1e6, 1e6), kept_bytes=10_000
    )
    async with memory_swarm(folder, [Span(0, 5)], config=config) as swarm:
        (provider,) = swarm.providers
        transport = await swarm.transport(Identity.generate().peer_id)
        opener = Opener(swarm, await transport.open(provider.peer, CONTROL_PROTOCOL), sampling)
        assert provider.service.engine is not None and provider.service.engine.pages == pages
        yield opener, provider.service.engine
        await until(lambda: provider.empty)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose prompts may have many different tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("large"), vocab_size=VOCAB, context_length=2048)


async def test_sessions_that_were_used_and_closed_leave_nothing(folder: Path) -> None:
    numbers = random.Random(1)
    async with stage(folder, 400, SamplingParams()) as (opener, engine):

        async def use(count: int) -> None:
            for _ in range(count // 50):
                prompts = [[numbers.randrange(2, 300) for _ in range(40)] for _ in range(50)]
                sessions = [await opener.open(prompt) for prompt in prompts]
                await opener.read(50 * NEW)
                for session in sessions:
                    await opener.close(session)
            gc.collect()

        await use(400)  # more than there are pages: what is cached is as much as can be
        tracemalloc.start()
        try:
            await use(100)
            before, _ = tracemalloc.get_traced_memory()
            await use(SESSIONS)
            left = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert left < 500 * SESSIONS, f"{SESSIONS} sessions left {left / 1e3:.0f} kB"
        assert engine.free_pages == engine.pages


async def test_an_idle_session_costs_little_beside_its_pages(large: Path) -> None:
    """The worst that there is: a long prompt of different tokens, of which the sampler keeps account."""
    prompt = random.Random(2).sample(range(VOCAB), 1000)
    async with stage(large, 2500, WARM) as (opener, engine):
        for _ in range(3):
            session = await opener.open(prompt)
            await opener.read(NEW)
            await opener.close(session)
        gc.collect()
        own = psutil.Process()
        before, free = own.memory_info().rss, engine.free_pages
        sessions = []
        for _ in range(500):
            sessions.append(await opener.open(prompt, paused=True))
            await opener.read(1)
        gc.collect()
        each = (own.memory_info().rss - before) / 500  # the page of its own included, whose memory is used now
        assert free - engine.free_pages == 500 + 62, "the full pages are shared"
        assert each < 64 * 1024, f"an idle session costs {each / 1024:.1f} KiB"
        for session in sessions:
            await opener.close(session)
