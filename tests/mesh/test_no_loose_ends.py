"""Nothing that a client has begun goes on unattended when it fails, or when the client is closed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh.client import tokenizer_files as module
from mesh.client.backend import BackendConfig, SwarmBackend
from mesh.client.catalog import Offer
from mesh.client.deadlines import DeadlineBounds
from mesh.client.outlook import LookConfig
from mesh.client.ring_session import RingSession
from mesh.client.session_plan import SessionPlan
from mesh.discovery.directory import MemoryDirectory
from mesh.errors import PeerUnreachable
from mesh.identity import Identity
from mesh.swarm.route import Hop
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, memory_swarm
from tests.shards.models import make_checkpoint

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(30)


class Links:
    """One hop cannot be reached, the other takes for ever."""

    closed = False

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def get(self, peer: str) -> None:
        if peer == "gone":
            await asyncio.sleep(0.01)
            raise PeerUnreachable("it is gone", peer=peer)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(peer)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)


async def test_when_one_hop_cannot_be_reached_nobody_goes_on_dialling_the_others() -> None:
    links = Links()
    plan = SessionPlan("00" * 32, "float32", 48, (2, 3), 2, 8, (), SamplingParams(), prompt_scores=False)
    hops = [Hop("slow", Span(0, 2)), Hop("gone", Span(2, 4))]
    session = RingSession(links, hops, plan, admit_seconds=5.0, deadlines=DeadlineBounds())  # type: ignore[arg-type]

    with pytest.raises(PeerUnreachable, match="gone"):
        async with session:
            pass

    assert links.ended == ["slow"]


async def test_a_client_that_is_closed_answers_from_its_last_look_and_starts_no_other(tmp_path: Path) -> None:
    async with memory_swarm(make_checkpoint(tmp_path), [Span(0, 5)]) as swarm:
        identity = Identity.generate()
        transport = await swarm.transport(identity.peer_id)
        backend = SwarmBackend(
            transport, MemoryDirectory(identity, swarm.board), BackendConfig(looks=LookConfig(renewed_after=0.0))
        )
        async with backend:
            offer = await backend.offer(MODEL)

        assert await backend.offer(MODEL) is offer


async def test_a_fetch_that_fails_after_another_has_answered_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEDGE_SECONDS", 0.01)
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    async with memory_swarm(make_checkpoint(tmp_path), [Span(0, 5), Span(0, 5)]) as swarm:
        both = asyncio.Barrier(2)
        order: list[str] = []

        async def fetch_from(offer: Offer, peer: str) -> dict[str, bytes]:
            order.append(peer)
            await both.wait()
            if peer == order[1]:
                raise PeerUnreachable("it is gone", peer=peer)
            return {"a": b"b"}

        monkeypatch.setattr(swarm.backend._files, "fetch_from", fetch_from)
        got = await swarm.backend._files.fetch(await swarm.backend.offer(MODEL))
        gc.collect()

    assert got == {"a": b"b"}
    assert not unheard
