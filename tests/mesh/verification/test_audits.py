"""Audits in a swarm in one process: the honest are exact, whoever computes anything else is found and routed around."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh.client.audit_hop import ask_audits, ask_profile
from mesh.client.backend_config import BackendConfig
from mesh.client.types import GenerateRequest
from mesh.provider.stage.server import StageService
from mesh.wire.audit import FetchWork
from shards.engine.sampling_params import SamplingParams
from shards.grammar.constraint import Constraint
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
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0.9}, {"temperature": 0.7, "frequency_penalty": 0.5}]
    audits = swarm.backend.audits
    for seed, kind in enumerate(kinds):
        await audited(swarm, request(seed, **kind))
        session = audits.last
        assert session is not None and session.proof.whole
        assert session.proof.broken(session.plan.fed, session.answer) == []
        verdicts = [await audits.examine(session, hop, session.answer) for hop in session.hops]
        assert [(each.hop.span, each.outcome) for each in verdicts if each] == [(span, "exact") for span in SPANS]
        assert all(each.positions == len(PROMPT) + 44 for each in verdicts if each)
    assert {verdict.outcome for verdict in audits.verdicts} == {"exact"}
    assert not swarm.backend.audits.evidence.factors(0.0)


async def test_the_last_hop_of_an_answer_that_is_held_to_a_form_is_not_taken_for_a_cheat(swarm: MemorySwarm) -> None:
    held = Constraint("regex", "(yes|no){6}")
    for seed in range(6):
        await audited(swarm, replace(request(seed), ignore_eos=False, constraint=held))
    audits = swarm.backend.audits
    session = audits.last
    assert session is not None and session.plan.constraint is not None
    assert {verdict.outcome for verdict in audits.verdicts} == {"exact"}
    assert not audits.evidence.factors(0.0)
    assert await audits.examine(session, session.hops[-1], session.answer) is None


def noisy(size: float) -> Any:
    """Noise of that size beside each number."""
    generator = torch.Generator().manual_seed(3)
    return lambda rows: rows * (1 + size * torch.randn(rows.shape, generator=generator))


async def test_a_stage_that_computes_anything_else_is_found_and_the_next_session_goes_round_it(
    swarm: MemorySwarm,
) -> None:
    cheat = swarm.providers[1]
    spoil(cheat.service, noisy(1e-4))
    for seed in range(30):
        verdicts = await audited(swarm, request(seed))
        if verdicts[-1].hop.peer == cheat.peer:
            break
    assert (verdicts[-1].outcome, verdicts[-1].hop.span) == ("differs", SPANS[1])
    assert 2e-5 < verdicts[-1].found.median < 1e-2
    assert all(verdict.outcome == "exact" for verdict in verdicts[:-1])
    answer = await swarm.generate(request(99))
    assert cheat.peer not in {report.peer for report in answer.completion.route}
    assert set(swarm.backend.audits.evidence.factors(0.0)) == {cheat.peer}


async def test_a_last_hop_that_chooses_other_tokens_is_found_and_nobody_else(swarm: MemorySwarm) -> None:
    cheat = swarm.providers[2]
    passes = iter(range(1 << 30))
    spoil(cheat.service, lambda rows: rows.roll(1, dims=-1) if next(passes) % 9 == 8 else rows)
    for seed in range(30):
        verdicts = await audited(swarm, request(seed, tokens=80))
        if verdicts[-1].hop.peer == cheat.peer:
            break
    assert verdicts[-1].outcome == "differs" and verdicts[-1].wrong_tokens >= 1
    assert set(swarm.backend.audits.evidence.factors(0.0)) == {cheat.peer}


async def test_a_replica_that_lies_convicts_nobody_where_another_one_contradicts_it(swarm: MemorySwarm) -> None:
    liar = swarm.providers[4]
    spoil(liar.service, noisy(1e-2))
    await swarm.add(SPANS[1], throughput=1.0)
    middle = []
    for seed in range(40):
        verdicts = await audited(swarm, request(seed, tokens=20))
        middle = [verdict for verdict in verdicts if verdict.hop.span == SPANS[1]]
        if swarm.backend.audits._unreliable:
            break
    assert swarm.backend.audits._unreliable == {liar.peer}
    assert {verdict.outcome for verdict in middle} == {"exact"}
    assert not swarm.backend.audits.evidence.factors(0.0)


async def test_a_hop_that_signs_other_rows_than_it_sends_breaks_its_link_with_the_next(swarm: MemorySwarm) -> None:
    cheat = swarm.providers[0]
    proving = cheat.service._proving
    assert proving is not None
    ran = proving.ledger.ran

    def lie(*args: Any, **more: Any) -> Any:
        session, client, place, start, ins, outs = args
        return ran(session, client, place, start, ins, [bytes(len(row)) for row in outs], **more)

    proving.ledger.ran = lie  # type: ignore[method-assign]
    await audited(swarm, request(1))
    known = swarm.backend.audits.evidence.known()
    assert {peer for peer, standing in known.items() if standing.broken} == {
        cheat.peer,
        swarm.providers[1].peer,
    }
    assert not swarm.backend.audits.evidence.factors(0.0), "nothing says which of the two it was"


async def test_a_hop_that_shows_other_rows_than_it_signed_convicts_itself(swarm: MemorySwarm) -> None:
    cheat = swarm.providers[1]
    proving = cheat.service._proving
    assert proving is not None
    rows = proving.ledger.kept.rows
    proving.ledger.kept.rows = lambda *args: [bytes(len(row)) for row in rows(*args)]  # type: ignore[method-assign]
    for seed in range(30):
        verdicts = await audited(swarm, request(seed, tokens=10))
        if verdicts[-1].hop.peer == cheat.peer:
            break
    assert verdicts[-1].outcome == "differs: it shows other rows than it has signed"
    assert set(swarm.backend.audits.evidence.factors(0.0)) == {cheat.peer}


async def test_nobody_sees_the_rows_of_somebody_elses_session(swarm: MemorySwarm) -> None:
    await swarm.generate(request(1))
    proving = swarm.providers[1].service._proving
    assert proving is not None
    (session,) = proving.ledger.kept._kept
    stranger = await swarm.transport("stranger")
    answer, rows = await ask_audits(stranger, swarm.providers[1].peer, FetchWork(session, "in", 32))
    assert rows == b"" and answer.error == "no rows of such a session of yours are kept here"
    own, rows = await ask_audits(swarm.backend._transport, swarm.providers[1].peer, FetchWork(session, "in", 32))
    assert own.error is None and len(rows) == 32 * 48 * 4


async def test_providers_of_the_same_blocks_say_the_same_of_their_self_test(swarm: MemorySwarm) -> None:
    said = [await ask_profile(swarm.backend._transport, provider.peer) for provider in swarm.providers]
    assert len({profile.profile for profile in said}) == 1
    assert [profile.golden for profile in said[:3]] == [profile.golden for profile in said[3:]]
    assert len({profile.golden for profile in said}) == 3
