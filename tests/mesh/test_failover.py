"""A hop is lost, refuses, lies or falls silent: the answer goes on elsewhere, token for token, or ends clearly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mesh.client.backend import BackendConfig
from mesh.client.deadlines import DeadlineBounds
from mesh.client.generation import Patience
from mesh.client.types import GenerateRequest
from mesh.errors import MeshError, NoRoute, PeerError, PeerFailed, PeerTimeout, Refused
from mesh.identity import Identity
from mesh.provider.config import ServiceConfig
from mesh.provider.stage.admission import AdmissionLimits
from mesh.transport.port import Channel
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    RING_PROTOCOL,
    Activations,
    CloseSession,
    FetchFile,
    FileData,
    Message,
    NewToken,
    OpenSession,
    Ping,
    Pong,
    Prompt,
    PromptScores,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    decode,
    encode,
)
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, collect, memory_swarm, until
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)

SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
BRISK = BackendConfig(
    admit_seconds=0.5,
    deadlines=DeadlineBounds(suspect_least=0.5, suspect_unknown=0.5, lost_least=0.5, lost_most=0.5),
    patience=Patience(route_seconds=1.0, resume_seconds=1.0),
)
EVERYTHING = SamplingParams(
    temperature=0.9,
    seed=99,
    top_p=0.95,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.3,
    logprobs=2,
)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        yield swarm


def ask(count: int = 60, **changes: object) -> GenerateRequest:
    request = GenerateRequest(MODEL, tuple(random_tokens(20)), count, ignore_eos=True)
    return replace(request, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("params", [SamplingParams(), EVERYTHING], ids=["greedy", "everything"])
@pytest.mark.parametrize("lost", [0, 1, 2], ids=["first", "middle", "last"])
async def test_the_answer_goes_on_identically_on_a_replica(
    swarm: MemorySwarm, params: SamplingParams, lost: int
) -> None:
    request = ask(sampling=params)
    undisturbed = await swarm.generate(request)
    replica = await swarm.add(SPANS[lost], throughput=1.0)
    victim = swarm.providers[lost]

    tokens, logprobs = [], []
    async with swarm.backend.generate(request) as generation:
        assert victim.peer in {hop.peer for hop in generation.hops}
        async for delta in generation:
            tokens += delta.tokens
            logprobs += delta.logprobs
            if len(tokens) == 5:
                await victim.vanish()
        survivors = {hop.peer for hop in generation.hops}

    assert tuple(tokens) == undisturbed.tokens
    assert [entry.token for entry in logprobs] == [entry.token for entry in undisturbed.logprobs]
    for entry, before in zip(logprobs, undisturbed.logprobs, strict=True):
        assert entry.logprob == pytest.approx(before.logprob, abs=1e-4)
    assert victim.peer not in survivors
    assert replica.peer in survivors
    assert generation.completion is not None
    assert generation.completion.completion_tokens == 60
    assert {report.peer for report in generation.completion.route} >= survivors
    await until(lambda: swarm.empty)


async def test_the_answer_goes_on_over_another_cut_of_the_model(swarm: MemorySwarm) -> None:
    request = ask(sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)
    await swarm.add(Span(0, 5), throughput=1.0)

    tokens: list[int] = []
    async with swarm.backend.generate(request) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if len(tokens) == 5:
                await swarm.providers[0].vanish()
                await swarm.providers[2].vanish()

    assert tuple(tokens) == undisturbed.tokens


async def test_a_provider_that_stops_in_order_is_replaced_too(swarm: MemorySwarm) -> None:
    request = ask(sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)
    await swarm.add(SPANS[1], throughput=1.0)

    tokens: list[int] = []
    async with swarm.backend.generate(request) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if len(tokens) == 5:
                await swarm.providers[1].stop()

    assert tuple(tokens) == undisturbed.tokens


async def test_a_replica_that_comes_late_is_waited_for(swarm: MemorySwarm) -> None:
    request = ask(sampling=EVERYTHING)
    undisturbed = await swarm.generate(request)

    async def rescue() -> None:
        await asyncio.sleep(0.3)
        await swarm.add(SPANS[1])

    tokens: list[int] = []
    async with asyncio.TaskGroup() as tasks, swarm.backend.generate(request) as generation:
        async for delta in generation:
            tokens += delta.tokens
            if len(tokens) == 5:
                await swarm.providers[1].vanish()
                tasks.create_task(rescue())

    assert tuple(tokens) == undisturbed.tokens


async def test_prompt_scores_are_complete_after_a_loss_in_the_prompt(swarm: MemorySwarm) -> None:
    request = ask(3, prompt=tuple(random_tokens(300)), prompt_logprobs=True)
    undisturbed = await swarm.generate(request)
    await swarm.add(SPANS[1], throughput=1.0)

    async with swarm.backend.generate(request) as generation:
        reading = asyncio.create_task(collect(generation))
        table = swarm.services[2].table
        await until(lambda: any(session.expected > 40 for session in table))
        await swarm.providers[1].vanish()
        answer = await reading

    assert answer.tokens == undisturbed.tokens
    scores, before = answer.completion.prompt_logprobs, undisturbed.completion.prompt_logprobs
    assert len(scores) == 300
    assert [entry.token for entry in scores] == [entry.token for entry in before]
    assert scores[-1].logprob == pytest.approx(before[-1].logprob, abs=1e-4)


async def test_without_a_replica_there_is_a_clear_error_in_time(swarm: MemorySwarm) -> None:
    tokens: list[int] = []
    began = 0.0
    with pytest.raises(MeshError) as caught:
        async with swarm.backend.generate(ask(400)) as generation:
            async for delta in generation:
                tokens += delta.tokens
                if len(tokens) == 5:
                    began = time.monotonic()
                    await swarm.providers[1].vanish()

    assert time.monotonic() - began < BRISK.patience.route_seconds + BRISK.admit_seconds + 2.5
    assert isinstance(caught.value, NoRoute | PeerError)
    assert "2:4" in str(caught.value) or swarm.providers[1].peer in str(caught.value)
    await until(lambda: swarm.empty)


async def test_a_swarm_that_has_a_gap_from_the_start_says_so_at_once(folder: Path) -> None:
    async with memory_swarm(folder, SPANS[:2], backend=BRISK) as swarm:
        began = time.monotonic()
        with pytest.raises(NoRoute, match="blocks 4:5 of 5"):
            await swarm.generate(ask(3))
        assert time.monotonic() - began < BRISK.patience.route_seconds, "it does not wait for somebody to come"


async def test_a_hop_without_room_is_passed_by(swarm: MemorySwarm) -> None:
    full = ServiceConfig(AdmissionLimits(sessions=0), threads=1)
    small = ServiceConfig(AdmissionLimits(kv_bytes=100), threads=1)
    await swarm.add(SPANS[0], throughput=1e6, config=full)
    await swarm.add(SPANS[2], throughput=1e6, config=small)

    answer = await swarm.generate(ask(5))

    assert [report.peer for report in answer.completion.route] == [provider.peer for provider in swarm.providers[:3]]


async def test_a_full_swarm_says_that_it_is_full_and_when_to_come_back(folder: Path) -> None:
    full = ServiceConfig(AdmissionLimits(sessions=0))
    async with memory_swarm(folder, SPANS, config=full, backend=BRISK) as swarm:
        with pytest.raises(Refused, match="sessions are taken") as caught:
            await swarm.generate(ask(3))
        assert caught.value.retry_after == 1.0


async def test_who_was_refused_by_all_is_told_when_to_come_back_without_asking_them_again(folder: Path) -> None:
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        for provider in swarm.providers:
            swarm.backend._full.refused(provider.peer, 30.0, time.monotonic())
        began = time.monotonic()
        with pytest.raises(Refused, match="every route is full") as caught:
            await swarm.generate(ask(3))
        assert 25.0 < caught.value.retry_after <= 30.0
        assert time.monotonic() - began < 1.0


async def test_a_full_replica_is_passed_over_for_one_with_room(folder: Path) -> None:
    full = ServiceConfig(AdmissionLimits(sessions=0))
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        crowded = await swarm.add(SPANS[1], throughput=1e6, config=full)
        assert len((await swarm.generate(ask(3))).tokens) == 3
        assert crowded.peer in swarm.backend._full.waits(time.monotonic())
        assert crowded.peer not in swarm.backend._penalised


Answering = Callable[[Message], list[Message]]
Lying = Callable[[OpenSession], list[Message]]


async def play(swarm: MemorySwarm, span: Span, answer: Answering, lie: Lying = lambda opened: []) -> str:
    """A provider that the test plays: it answers control messages, and lies once hidden states reach it."""
    identity = Identity.generate()
    transport = await swarm.transport(identity.peer_id)
    opened: dict[bytes, tuple[Channel, OpenSession]] = {}

    async def control(channel: Channel) -> None:
        while (frame := await channel.receive()) is not None:
            message = decode(frame)
            if isinstance(message, OpenSession):
                opened[message.session] = channel, message
            for reply in answer(message):
                await channel.send(encode(reply))

    async def ring(channel: Channel) -> None:
        while (frame := await channel.receive()) is not None:
            message = decode(frame)
            assert isinstance(message, Activations)
            for session, start, count in message.parts:
                client, opening = opened[session]
                if start + count == opening.fed_tokens:
                    for reply in lie(opening):
                        await client.send(encode(reply))

    await transport.serve(CONTROL_PROTOCOL, control)
    await transport.serve(RING_PROTOCOL, ring)
    await swarm.announce(identity, span)
    swarm.backend._outlook.forget()
    return identity.peer_id


def deaf(_: Message) -> list[Message]:
    return []


def idle(message: Message) -> list[Message]:
    """Admits everything and does no more."""
    return [SessionOpened(message.session)] if isinstance(message, OpenSession) else []


def polite(message: Message) -> list[Message]:
    """Answers as an honest hop."""
    match message:
        case OpenSession(session=session):
            return [SessionOpened(session)]
        case CloseSession(session=session):
            return [SessionClosed(session, 0, 0)]
        case Ping(nonce=nonce):
            return [Pong(nonce)]
    return []


@pytest.mark.parametrize("span", [Span(0, 2), Span(4, 5), Span(0, 5)], ids=str)
async def test_a_hop_that_never_answers_is_named_and_replaced(swarm: MemorySwarm, span: Span) -> None:
    # Tokenizer files come from whoever answers; have them already.
    await swarm.generate(ask(1))
    peer = await play(swarm, span, deaf)

    answer = await swarm.generate(ask(5))

    assert len(answer.tokens) == 5
    assert peer not in {report.peer for report in answer.completion.route}
    assert peer in swarm.backend._penalised


async def test_a_hop_that_admits_and_then_does_nothing_is_found_by_its_silence(swarm: MemorySwarm) -> None:
    await swarm.generate(ask(1))
    peer = await play(swarm, Span(2, 4), idle)

    answer = await swarm.generate(ask(5))

    assert len(answer.tokens) == 5
    assert peer in swarm.backend._penalised
    assert peer not in {report.peer for report in answer.completion.route}


def token(message: OpenSession, **changes: object) -> list[Message]:
    return [replace(NewToken(message.session, message.fed_tokens, 5, None, None, ()), **changes)]  # type: ignore[arg-type]


LIES: dict[str, Lying] = {
    "a token outside the vocabulary": lambda m: token(m, token=300),
    "a huge token": lambda m: token(m, token=(1 << 31) - 1),
    "a token of another position": lambda m: token(m, position=m.fed_tokens + 1),
    "an end before its time": lambda m: token(m, finish="length"),
    "an end of text that is none": lambda m: token(m, finish="stop"),
    "log-probabilities nobody asked for": lambda m: token(m, logprob=-1.0),
    "blame for a peer that has nothing to do with it": lambda m: [
        SessionFailed(m.session, "bad_input", "it was not me", "12D3KooWSomebodyElse")
    ],
    "that it is open once more": lambda m: [SessionOpened(m.session)],
    "that it is closed": lambda m: [SessionClosed(m.session, 1, 1)],
    "scores nobody asked for": lambda m: [PromptScores(m.session, 1, ((-1.0, ()),))],
    "what makes no sense to a client": lambda m: [Prompt(m.session)],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_last_hop_that_lies_is_blamed_and_replaced(swarm: MemorySwarm, lie: str) -> None:
    request = ask(8)
    honest = await swarm.generate(request)
    peer = await play(swarm, Span(4, 5), polite, LIES[lie])

    answer = await swarm.generate(request)

    assert answer.tokens == honest.tokens
    assert set(swarm.backend._penalised) == {peer}


async def test_a_last_hop_that_does_not_end_where_it_must_is_stopped(swarm: MemorySwarm) -> None:
    """What it says before that cannot be told from an honest answer here (a verifier could)."""
    await swarm.generate(ask(1))
    peer = await play(
        swarm, Span(4, 5), polite, lambda m: [one for n in range(40) for one in token(m, position=m.fed_tokens + n)]
    )
    answer = await swarm.generate(ask(8))

    assert answer.tokens[:7] == (5,) * 7
    assert len(answer.tokens) == 8
    assert set(swarm.backend._penalised) == {peer}


async def test_a_hop_that_answers_pings_but_sends_no_token_is_avoided_where_there_is_a_choice(
    swarm: MemorySwarm,
) -> None:
    honest = await swarm.generate(ask(5))
    peer = await play(swarm, Span(4, 5), polite)

    answer = await swarm.generate(ask(5))

    assert answer.tokens == honest.tokens
    assert peer in swarm.backend._penalised


async def test_a_flood_of_tokens_ends_the_floods_channel_only(swarm: MemorySwarm) -> None:
    peer = await play(swarm, Span(4, 5), polite, lambda m: token(m) * 3000)
    answer = await swarm.generate(ask(8))
    assert len(answer.tokens) == 8
    assert set(swarm.backend._penalised) == {peer}


@pytest.mark.parametrize("top", [None, ((5, -1.0),), ((300, -1.0),)], ids=["missing", "unasked", "unknown"])
async def test_bad_scores_are_the_last_hops_fault(
    swarm: MemorySwarm, top: tuple[tuple[int, float], ...] | None
) -> None:
    request = ask(4, prompt_logprobs=True, sampling=SamplingParams(logprobs=1 if top and top[0][0] == 300 else None))
    honest = await swarm.generate(request)

    def lie(opening: OpenSession) -> list[Message]:
        return token(opening) if top is None else [PromptScores(opening.session, 1, ((-1.0, top),))]

    peer = await play(swarm, Span(4, 5), polite, lie)

    answer = await swarm.generate(request)

    assert set(swarm.backend._penalised) == {peer}
    assert answer.tokens == honest.tokens
    assert len(answer.completion.prompt_logprobs) == 20


async def test_when_nobody_else_is_left_the_failure_itself_is_told(folder: Path) -> None:
    async with memory_swarm(folder, SPANS[:2], backend=BRISK) as swarm:
        peer = await play(swarm, Span(4, 5), polite, lambda m: [SessionFailed(m.session, "failed", "broken", None)])
        tokenizer = await swarm.backend.tokenizer(MODEL)
        assert tokenizer.vocab_size == 300
        with pytest.raises((PeerFailed, NoRoute), match=f"{peer}.*broken|4:5"):
            await swarm.generate(ask(3))
        await until(lambda: swarm.empty)


async def test_a_swarm_of_silent_hops_ends_in_a_timeout_within_the_deadline(folder: Path) -> None:
    async with memory_swarm(folder, SPANS[:2], backend=BRISK) as swarm:
        await swarm.backend.tokenizer(MODEL)
        peer = await play(swarm, Span(4, 5), deaf)
        began = time.monotonic()
        with pytest.raises((PeerTimeout, NoRoute), match=f"{peer} did not answer|4:5"):
            await swarm.generate(ask(3))
        assert time.monotonic() - began < BRISK.patience.route_seconds + 2 * BRISK.admit_seconds + 1.0


async def test_a_provider_that_gives_no_files_or_wrong_ones_does_not_hold_up_the_others(folder: Path) -> None:
    def forger(message: Message) -> list[Message]:
        return [FileData(message.request, None)] if isinstance(message, FetchFile) else polite(message)

    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        for _ in range(4):
            await play(swarm, Span(0, 5), forger)
        await play(swarm, Span(0, 5), deaf)

        began = time.monotonic()
        tokenizer = await swarm.backend.tokenizer(MODEL)

        assert tokenizer.vocab_size == 300
        assert time.monotonic() - began < 4.0
