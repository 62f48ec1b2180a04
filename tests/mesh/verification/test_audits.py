"""Audits in a swarm in one process: the honest are exact, whoever computes anything else is found and routed around."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh.client.backend_config import BackendConfig
from mesh.client.types import GenerateRequest
from mesh.provider.stage.server import StageService
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from shards.model.stage import Piece
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm

SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
PROMPT = tuple(range(7, 60))
ALWAYS = BackendConfig(audit_share=1.0)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    """Three stages, and a slow replica of each."""
    async with memory_swarm(folder, SPANS, backend=ALWAYS) as swarm:
        for span in SPANS:
            await swarm.add(span, throughput=1.0)
        yield swarm


def request(seed: int, tokens: int = 45, **sampling: Any) -> GenerateRequest:
    prompt = tuple((token * (seed + 3)) % 250 + 5 for token in PROMPT)
    return GenerateRequest(MODEL, prompt, tokens, SamplingParams(seed=seed, **sampling), ignore_eos=True)


async def audited(swarm: MemorySwarm, *requests: GenerateRequest) -> list[Any]:
    """The verdicts on sessions of these requests."""
    for each in requests:
        await swarm.generate(each)
        await swarm.backend.audits.finished()
    return list(swarm.backend.audits.verdicts)


def spoil(service: StageService, change: Any) -> None:
    """Have a stage's blocks compute something else."""
    forward = service.model.forward

    def wrong(pieces: list[Piece]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [change(rows) for rows in forward(pieces)]

    service.model.forward = wrong  # type: ignore[method-assign]


async def test_honest_sessions_of_all_kinds_are_found_exact_on_every_hop(swarm: MemorySwarm) -> None:
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0.9}, {"temperature": 0.7, "frequency_penalty": 0.5, "top_p": 0.9}]
    verdicts = await audited(swarm, *(request(seed, **kinds[seed % 3]) for seed in range(18)))
    assert {verdict.hop.span for verdict in verdicts} == set(SPANS)
    assert {verdict.outcome for verdict in verdicts} == {"exact"}
    assert all(verdict.positions > len(PROMPT) for verdict in verdicts)
    assert not swarm.backend.audits.evidence.factors(0.0)
