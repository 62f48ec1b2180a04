"""Hops that do not answer, that lie or that flood: they are named, and the answer goes on elsewhere."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as change

from mesh.errors import NoRoute, PeerFailed, PeerTimeout
from mesh.identity import Identity
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
    NewTokens,
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
from tests.mesh.failover import BRISK, SPANS, ask, warm_up
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, memory_swarm, until

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        yield swarm


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
    await swarm.generate(warm_up())
    peer = await play(swarm, span, deaf)

    answer = await swarm.generate(ask(5))

    assert len(answer.tokens) == 5
    assert peer not in {report.peer for report in answer.completion.route}
    assert peer in swarm.backend._penalised


async def test_a_hop_that_admits_and_then_does_nothing_is_found_by_its_silence(swarm: MemorySwarm) -> None:
    await swarm.generate(warm_up())
    peer = await play(swarm, Span(2, 4), idle)

    answer = await swarm.generate(ask(5))

    assert len(answer.tokens) == 5
    assert peer in swarm.backend._penalised
    assert peer not in {report.peer for report in answer.completion.route}


def token(message: OpenSession, **changes: object) -> list[Message]:
    return [change(NewToken(message.session, message.fed_tokens, 5, None, None, ()), **changes)]  # type: ignore[arg-type]


def trip(message: OpenSession, *tokens: int, **changes: object) -> list[Message]:
    said = tuple((each, None, ()) for each in tokens)
    made = NewTokens(message.session, message.fed_tokens, said, None, 15)
    return [change(made, **changes)]  # type: ignore[arg-type]


TRIPS: dict[str, Lying] = {
    "a token outside the vocabulary behind a good one": lambda m: trip(m, 5, 300),
    "tokens of another position": lambda m: trip(m, 5, 6, position=m.fed_tokens + 1),
    "an end before its time": lambda m: trip(m, 5, 6, finish="length"),
    "tokens beyond the end": lambda m: trip(m, *range(5, 15)),
    "log-probabilities nobody asked for": lambda m: trip(m, tokens=((5, None, ()), (6, -1.0, ()))),
}

LIES: dict[str, Lying] = {
    "more guesses than were allowed": lambda m: trip(m, 5, 6, drafted=1),
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


@pytest.mark.parametrize("lie", TRIPS)
async def test_no_token_is_taken_of_a_trip_that_cannot_be(swarm: MemorySwarm, lie: str) -> None:
    request = replace(ask(8), speculate="always")
    honest = await swarm.generate(request)
    peer = await play(swarm, Span(4, 5), polite, TRIPS[lie])

    answer = await swarm.generate(request)

    assert answer.tokens == honest.tokens
    assert set(swarm.backend._penalised) == {peer}


async def test_a_last_hop_that_does_not_end_where_it_must_is_stopped(swarm: MemorySwarm) -> None:
    """What it says before that cannot be told from an honest answer here (a verifier could)."""
    await swarm.generate(warm_up())
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
