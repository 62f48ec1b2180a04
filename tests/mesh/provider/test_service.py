"""A stage in service when the bug is ours: its clients are told, and its operator gets the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mesh.client.backend import BackendConfig
from mesh.client.generation import Patience
from mesh.client.types import GenerateRequest
from mesh.errors import InternalError, MeshError
from mesh.provider.config import ServiceConfig
from mesh.provider.stage import server as service_module
from mesh.provider.stage.admission import AdmissionLimits
from mesh.provider.stage.control import ControlChannel
from mesh.wire.frame import Frame
from mesh.wire.messages import ExtendSession, Prompt
from mesh.wire.paying import Hello, Voucher
from shards.model.span import Span
from shards.model.stage import Piece
from tests.mesh.payment.money import Money
from tests.mesh.swarm_in_memory import MODEL, memory_swarm, until
from tests.shards.models import make_checkpoint

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(30)


async def test_an_engine_that_stops_ends_the_service_with_an_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(pieces: Sequence[Piece]) -> list[torch.Tensor]:
        raise ZeroDivisionError("a bug")

    config = BackendConfig(admit_seconds=0.5, patience=Patience(attempts=2, route_seconds=0.5, resume_seconds=0.5))
    request = GenerateRequest(MODEL, (5, 6, 7), 5, ignore_eos=True)
    async with memory_swarm(make_checkpoint(tmp_path), [Span(0, 5)], backend=config) as swarm:
        (provider,) = swarm.providers
        await swarm.generate(request)
        monkeypatch.setattr(provider.service.model, "forward", forward)

        with pytest.raises(MeshError, match="shutting down"):
            await swarm.generate(request)

        await asyncio.wait({provider.task}, timeout=10)
        with pytest.raises(InternalError, match="a bug"):
            provider.task.result()
        assert provider.empty
        provider.task = asyncio.create_task(asyncio.sleep(0))  # it has been looked at


async def test_the_pages_of_a_session_that_was_dropped_as_idle_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "EXPIRY_SECONDS", 0.02)
    config = ServiceConfig(admission=AdmissionLimits(idle_seconds=0.05))
    async with memory_swarm(make_checkpoint(tmp_path), [Span(0, 5)], config=config) as swarm:
        (provider,) = swarm.providers
        engine = provider.service.engine
        assert engine is not None
        async with swarm.backend.generate(GenerateRequest(MODEL, (5, 6, 7), 50, ignore_eos=True)):
            assert engine.free_pages < engine.pages
            await until(lambda: not len(provider.service.table))
            assert engine.free_pages == engine.pages
        await until(lambda: provider.empty)


async def test_the_pages_of_sessions_that_a_leaving_provider_hands_over_are_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "DRAIN_PAUSE", 20.0)
    async with memory_swarm(make_checkpoint(tmp_path), [Span(0, 5)]) as swarm:
        (provider,) = swarm.providers
        engine = provider.service.engine
        assert engine is not None
        async with swarm.backend.generate(GenerateRequest(MODEL, (5, 6, 7), 50, ignore_eos=True)):
            assert engine.free_pages < engine.pages
            leaving = asyncio.create_task(provider.service.drain(0.0))
            await until(lambda: not len(provider.service.table))
            assert engine.free_pages == engine.pages
            assert not leaving.done()
            leaving.cancel()


async def test_what_comes_while_a_service_ends_is_no_bug_of_ours(tmp_path: Path) -> None:
    money = Money()
    async with memory_swarm(make_checkpoint(tmp_path), [Span(0, 5)], money=money, unverified=True) as swarm:
        (provider,) = swarm.providers
        await swarm.generate(GenerateRequest(MODEL, (5, 6, 7), 5, ignore_eos=True))
        await provider.stop()
        control = ControlChannel(_Deaf())  # type: ignore[arg-type]

        for message in (Hello(), Voucher(7, 1, bytes(65)), Prompt(bytes(16)), ExtendSession(bytes(16), 3)):
            provider.service._asked(control, message, Frame(b""))

        assert provider.empty


class _Deaf:
    """A channel of which only the other end matters."""

    peer = "somebody"
