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
from shards.span import Span
from shards.stage import Piece
from tests.mesh.swarm_in_memory import MODEL, memory_swarm
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
