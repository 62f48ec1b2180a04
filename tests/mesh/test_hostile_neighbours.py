"""Clients that do not read, neighbours that answer on the ring or go away, sessions in which nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from mesh.client.types import GenerateRequest
from mesh.errors import PeerError
from mesh.transport.port import Channel
from mesh.wire.messages import (
    RING_PROTOCOL,
    Activations,
    FetchFile,
    FileData,
    Message,
    NewToken,
    Pong,
    Prompt,
    SessionFailed,
    SessionOpened,
    SessionRefused,
    encode,
)
from mesh.wire.tokens import token_payload
from tests.mesh.hostile import A, B, Bystander, open_middle
from tests.mesh.stranger import PROMPT, SPANS, drain, hidden, stranger
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm, until

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS) as swarm:
        yield swarm


@pytest.mark.parametrize("kind", [SessionOpened(A), NewToken(A, 0, 0, None, None, ()), FileData(1, None), Pong(1)])
async def test_a_message_that_only_a_hop_sends_ends_the_channel(swarm: MemorySwarm, kind: Message) -> None:
    async with Bystander(swarm):
        villain = await stranger(swarm)
        await villain.ask(villain.opening(A, SPANS[0]))
        await villain.say(kind)
        await villain.hears_the_end()
    await until(lambda: swarm.empty)


async def test_only_the_models_own_small_files_are_given(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    own = swarm.files.digest
    for digest, name in ((own, "../model.safetensors"), (own, "/etc/passwd"), (own, ""), ("0" * 64, "config.json")):
        answer = await villain.ask(FetchFile(3, digest, name))
        assert isinstance(answer, FileData)
        assert answer.request == 3
        assert answer.error is not None
    frame_asked = encode(FetchFile(4, own, "config.json"))
    await villain.control.send(frame_asked)
    frame = await villain.control.receive()
    assert frame is not None
    assert bytes(frame.payload) == swarm.files.contents["config.json"]


async def test_a_client_that_does_not_read_is_dropped_and_disturbs_nobody(
    swarm: MemorySwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.provider.stage.control.MAX_OUTGOING", 64)
    async with Bystander(swarm):
        villain = await stranger(swarm)
        await villain.ask(villain.opening(A, SPANS[0]))
        with pytest.raises(PeerError):
            for number in range(100_000):
                await villain.say(FetchFile(number, swarm.files.digest, "tokenizer.json"))
    await until(lambda: swarm.empty)


async def test_a_neighbour_that_answers_on_the_ring_fails_its_sessions(swarm: MemorySwarm) -> None:
    async def chatty(channel: Channel) -> None:
        await channel.send(encode(Pong(1)))
        await drain(channel)

    async with Bystander(swarm):
        villain = await stranger(swarm, ring=chatty)
        await villain.ask(villain.opening(A, SPANS[0]))
        failed = await villain.ask(Prompt(A), token_payload(PROMPT))
        assert isinstance(failed, SessionFailed)
        assert (failed.code, failed.blamed) == ("peer_lost", villain.peer)
        assert "answered on the ring" in failed.reason
    await until(lambda: swarm.empty)


async def test_a_next_hop_that_goes_away_is_noticed_while_nothing_is_sent(swarm: MemorySwarm) -> None:
    opened = asyncio.Event()
    leave = asyncio.Event()

    async def leaving(channel: Channel) -> None:
        await channel.receive()
        opened.set()
        await leave.wait()

    villain = await stranger(swarm, ring=leaving)
    await villain.ask(villain.opening(A, SPANS[0]))
    await villain.say(Prompt(A), token_payload(PROMPT))
    await opened.wait()
    leave.set()
    failed = await villain.hear()
    assert isinstance(failed, SessionFailed)
    assert failed.code == "peer_lost"


async def test_a_new_ring_channel_takes_the_place_of_the_old_one(swarm: MemorySwarm) -> None:
    """The end of a channel that was replaced says nothing about the sessions on the new one."""
    villain, old = await open_middle(swarm)
    new = await villain.transport.open(swarm.providers[1].peer, RING_PROTOCOL)
    await new.send(encode(Activations(((A, 0, 10),)), hidden(10)))
    assert isinstance(await villain.hear(), NewToken)
    await old.aclose()
    await new.send(encode(Activations(((A, 10, 1),)), hidden(1)))
    assert isinstance(await villain.hear(), NewToken)
    await new.aclose()
    failed = await villain.hear()
    assert isinstance(failed, SessionFailed)
    assert "closed the ring" in failed.reason


@pytest.fixture
async def tidy_swarm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemorySwarm]:
    """One whose providers look for what has expired all the time."""
    monkeypatch.setattr("mesh.provider.stage.server.EXPIRY_SECONDS", 0.02)
    async with memory_swarm(folder, SPANS) as swarm:
        yield swarm


async def test_links_that_no_session_uses_are_closed(tidy_swarm: MemorySwarm) -> None:
    swarm = tidy_swarm
    answer = await swarm.generate(GenerateRequest(MODEL, PROMPT, 5, ignore_eos=True))
    assert len(swarm.services[0].links) == 1
    await until(lambda: not any(len(service.links) for service in swarm.services))
    again = await swarm.generate(GenerateRequest(MODEL, PROMPT, 5, ignore_eos=True))
    assert again.tokens == answer.tokens


async def test_a_session_in_which_nothing_happens_expires(tidy_swarm: MemorySwarm) -> None:
    swarm = tidy_swarm
    villain = await stranger(swarm)
    service = swarm.services[0]
    await villain.ask(villain.opening(A, SPANS[0]))
    session = service.table.get(A)
    assert session is not None
    session.last_active -= service.table.limits.idle_seconds + 1
    failed = await villain.hear()
    assert isinstance(failed, SessionFailed)
    assert failed.code == "idle"
    assert swarm.empty


async def test_a_provider_that_is_stopping_admits_nobody(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    await villain.ask(villain.opening(A, SPANS[0]))
    await swarm.providers[0].stop()
    failed = await villain.hear()
    assert isinstance(failed, SessionFailed)
    assert failed.code == "closing"
    refused = await villain.ask(villain.opening(B, SPANS[0]))
    assert isinstance(refused, SessionRefused)
    assert refused.code == "closing"
