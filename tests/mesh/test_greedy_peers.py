"""Peers that keep to the protocol and take what they can: sessions, channels, requests. Others get their share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mesh.client.types import GenerateRequest
from mesh.errors import PeerError
from mesh.provider.config import ServiceConfig
from mesh.provider.sessions import AdmissionLimits
from mesh.wire.messages import (
    RING_PROTOCOL,
    Activations,
    Ping,
    Pong,
    Prompt,
    SessionFailed,
    SessionOpened,
    decode,
    encode,
)
from shards.engine.sampling_params import SamplingParams
from tests.mesh.stranger import SPANS, Stranger, hidden, stranger
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm, until
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

REQUEST = GenerateRequest(MODEL, tuple(random_tokens(10)), 20, SamplingParams(), ignore_eos=True)
CAPACITY = 100
PAGES = 8
PAGE_BYTES = 16 * 3 * 128


@pytest.fixture
async def small(folder: Path) -> AsyncIterator[MemorySwarm]:
    """A swarm with memory for seven sessions as they begin, or one of a hundred tokens; and short patience."""
    limits = AdmissionLimits(kv_bytes=PAGES * PAGE_BYTES, unfed_grace=0.2, unfed_seconds=1.0)
    async with memory_swarm(folder, SPANS, config=ServiceConfig(limits, prefill_chunk=8)) as swarm:
        yield swarm


async def hog(swarm: MemorySwarm, provider: int, count: int, name: int) -> tuple[Stranger, int]:
    """A peer that opens sessions and uses none; how many it got."""
    villain = await stranger(swarm, provider)
    got = 0
    for number in range(count):
        session = bytes([name, provider, number]) + bytes(13)
        answer = await villain.ask(villain.opening(session, SPANS[provider], capacity=CAPACITY, limit=CAPACITY))
        got += answer == SessionOpened(session)
    return villain, got


async def test_sessions_that_are_taken_and_not_used_make_room_for_one_that_is(small: MemorySwarm) -> None:
    taken = 0
    for provider in range(2):
        for name in range(8):  # eight identities at each hop, more than there is room for
            _, got = await hog(small, provider, 2, name)
            taken += got
    assert taken >= 4
    free = [service.table.pages_free for service in small.services]
    await asyncio.sleep(0.3)  # the grace of what was only just opened

    answer = await small.generate(replace(REQUEST, max_tokens=CAPACITY - 20))

    assert len(answer.tokens) == CAPACITY - 20, free
    assert not small.backend._penalised


async def test_a_hog_is_told_that_its_session_ended(small: MemorySwarm) -> None:
    villain, got = await hog(small, 0, 3, 0)
    assert got >= 1
    async with asyncio.timeout(20):
        frame = await villain.control.receive()
    assert frame is not None
    failed = decode(frame)
    assert isinstance(failed, SessionFailed)
    assert failed.code == "idle"


async def test_who_asks_without_end_is_read_slowly_and_others_are_not(folder: Path) -> None:
    config = ServiceConfig(prefill_chunk=8, stranger_requests=(20.0, 50.0))
    async with memory_swarm(folder, SPANS, config=config) as swarm:
        villain, other = await stranger(swarm), await stranger(swarm)
        began = time.monotonic()
        for number in range(60):
            await villain.say(Ping(number))
        for number in range(60):
            assert await villain.hear() == Pong(number)
        assert time.monotonic() - began > 0.4, "ten more than at once, at twenty a second"
        began = time.monotonic()
        assert await other.ask(Ping(1)) == Pong(1)
        assert time.monotonic() - began < 0.4


async def test_a_request_with_a_large_payload_counts_as_many(folder: Path) -> None:
    config = ServiceConfig(prefill_chunk=8, stranger_requests=(20.0, 50.0))
    async with memory_swarm(folder, SPANS, config=config) as swarm:
        villain = await stranger(swarm)
        began = time.monotonic()
        await villain.say(Prompt(bytes(16)), bytes(1 << 20))
        await villain.say(Ping(1))
        assert isinstance(await villain.hear(), SessionFailed)
        assert await villain.hear() == Pong(1)
        assert time.monotonic() - began > 0.5, "64 requests' worth"


async def test_a_control_channel_without_sessions_or_words_ends(folder: Path) -> None:
    config = ServiceConfig(prefill_chunk=8, channel_seconds=0.3)
    async with memory_swarm(folder, SPANS, config=config) as swarm:
        silent, busy = await stranger(swarm), await stranger(swarm)
        opening = busy.opening(b"b" * 16, SPANS[0])
        assert await busy.ask(opening) == SessionOpened(opening.session)
        await silent.hears_the_end()
        await asyncio.sleep(0.5)
        assert await busy.ask(Ping(1)) == Pong(1), "a session depends on it"


async def test_a_client_comes_back_after_its_silent_channel_was_ended(folder: Path) -> None:
    config = ServiceConfig(prefill_chunk=8, channel_seconds=0.3)
    async with memory_swarm(folder, SPANS, config=config) as swarm:
        first = await swarm.generate(REQUEST)
        await asyncio.sleep(0.6)
        second = await swarm.generate(REQUEST)
        assert first.tokens == second.tokens
        assert not swarm.backend._penalised


async def test_a_ring_channel_that_only_brings_strays_is_broken_off(folder: Path) -> None:
    async with memory_swarm(folder, SPANS) as swarm:
        villain = await stranger(swarm, 1)
        ring = await villain.transport.open(swarm.providers[1].peer, RING_PROTOCOL)
        frame = encode(Activations(((b"x" * 16, 0, 1),)), hidden(1))
        with pytest.raises(PeerError):
            async with asyncio.timeout(20):
                while True:
                    await ring.send(frame)
                    await asyncio.sleep(0)
        assert len((await swarm.generate(REQUEST)).tokens) == 20


async def test_a_silent_ring_channel_of_nobodys_neighbour_ends(folder: Path) -> None:
    async with memory_swarm(folder, SPANS) as swarm:
        for service in swarm.services:
            service.ring.silence_seconds = 0.2
        villain = await stranger(swarm, 1)
        ring = await villain.transport.open(swarm.providers[1].peer, RING_PROTOCOL)
        with pytest.raises(PeerError):
            async with asyncio.timeout(5):
                await ring.receive()
        answer = await swarm.generate(REQUEST)  # its neighbours' channels are opened anew where they ended
        await asyncio.sleep(0.5)
        assert (await swarm.generate(REQUEST)).tokens == answer.tokens
        await until(lambda: swarm.empty)
