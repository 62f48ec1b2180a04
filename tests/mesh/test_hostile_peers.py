"""Peers that do not keep to the protocol: each hears why, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch

from mesh.identity import Identity
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    CONTROL_PROTOCOL,
    RING_PROTOCOL,
    Activations,
    CloseSession,
    Message,
    NewToken,
    NextTokens,
    Ping,
    Pong,
    Prompt,
    PromptProgress,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
    encode,
)
from mesh.wire.tokens import token_payload
from tests.mesh.hostile import A, B, Bystander, open_middle
from tests.mesh.stranger import PROMPT, SPANS, hidden, stranger
from tests.mesh.swarm_in_memory import MemorySwarm, memory_swarm, until

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS) as swarm:
        yield swarm


async def test_an_honest_peer_can_play_a_client_and_a_hop_by_hand(swarm: MemorySwarm) -> None:
    """The tools of this file work: what follows fails for the reason given and not for another."""
    villain, ring = await open_middle(swarm)
    await ring.send(encode(Activations(((A, 0, 10),)), hidden(10)))
    token = await villain.hear()
    assert isinstance(token, NewToken)
    assert token.position == 10
    await ring.send(encode(Activations(((A, 10, 1),)), hidden(1)))
    assert isinstance(await villain.hear(), NewToken)
    closed = await villain.ask(CloseSession(A, 0))
    assert isinstance(closed, SessionClosed)
    assert closed.tokens == 11
    assert await villain.ask(CloseSession(A, 0)) == SessionClosed(A, 0, 0), "closing twice is harmless"


BAD_ACTIVATIONS: dict[str, tuple[Message, bytes, str]] = {
    "too short": (Activations(((A, 0, 10),)), hidden(9), "1728 bytes"),
    "too long": (Activations(((A, 0, 10),)), hidden(11), "2112 bytes"),
    "nothing": (Activations(((A, 0, 10),)), b"", "0 bytes"),
    "half a number": (Activations(((A, 0, 10),)), hidden(10)[:-1], "1919 bytes"),
    "not a number": (Activations(((A, 0, 10),)), hidden(10, float("nan")), "NaN"),
    "infinite": (Activations(((A, 0, 10),)), hidden(10, float("inf")), "infinite"),
    "a gap": (Activations(((A, 1, 9),)), hidden(9), "0 was next"),
    "past the capacity": (Activations(((A, 0, 41),)), hidden(41), "capacity is 40"),
    "a huge count": (Activations(((A, 0, 1 << 24),)), hidden(10), "bytes of hidden states came"),
    "a huge position": (Activations(((A, 1 << 24, 1),)), hidden(1), "0 was next"),
    "tokens where hidden states belong": (NextTokens(((A, 0, 5),)), b"", "others hidden states"),
    "a token outside the vocabulary": (NextTokens(((A, 0, 300),)), b"", "outside the vocabulary"),
    "a control message on the ring": (Ping(1), b"", "no sense on the ring"),
}


@pytest.mark.parametrize("name", BAD_ACTIVATIONS)
async def test_a_bad_frame_on_the_ring_fails_its_own_session_and_no_other(swarm: MemorySwarm, name: str) -> None:
    message, payload, reason = BAD_ACTIVATIONS[name]
    async with Bystander(swarm):
        villain, ring = await open_middle(swarm)
        await ring.send(encode(message, payload))

        failed = await villain.hear()

        assert isinstance(failed, SessionFailed)
        assert failed.session == A
        assert failed.code == "bad_input"
        assert failed.blamed == villain.peer
        assert reason in failed.reason
    await until(lambda: swarm.empty)


@pytest.mark.parametrize(
    "header",
    [b"", b"\xff\xff", msgpack.packb({"t": "act", "parts": []}), msgpack.packb({"t": "act", "parts": [[A, 0, 0]]}),
     msgpack.packb({"t": "warp", "speed": 9}), msgpack.packb([1, 2])],
    ids=["empty", "garbage", "no-parts", "no-tokens", "unknown-kind", "no-map"],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [RING_PROTOCOL, CONTROL_PROTOCOL])
async def test_what_is_no_message_ends_the_channel_and_its_sessions(
    swarm: MemorySwarm, protocol: str, header: bytes
) -> None:
    async with Bystander(swarm):
        villain, ring = await open_middle(swarm)
        channel = ring if protocol == RING_PROTOCOL else villain.control
        await channel.send(Frame(header, b""))
        if channel is ring:
            failed = await villain.hear()
            assert isinstance(failed, SessionFailed)
            assert failed.blamed == villain.peer
        else:
            await villain.hears_the_end()
        await until(lambda: swarm.services[1].table.get(A) is None)
    await until(lambda: swarm.empty)


async def test_a_frame_cut_short_ends_the_sessions_of_its_sender(swarm: MemorySwarm) -> None:
    async with Bystander(swarm):
        villain, _ = await open_middle(swarm)
        _, writer = await villain.transport.open_raw(swarm.providers[1].peer, RING_PROTOCOL)
        writer.write(b"IM\x01\x00\x00\x00\x00\x20\x00\x00\x10\x00half a hea")
        writer.close()
        failed = await villain.hear()
        assert isinstance(failed, SessionFailed)
        assert failed.blamed == villain.peer
    await until(lambda: swarm.empty)


async def test_a_stranger_cannot_touch_somebody_elses_session(swarm: MemorySwarm) -> None:
    async with Bystander(swarm) as victim:
        for provider in range(2):
            villain = await stranger(swarm, provider)
            ring = await villain.transport.open(swarm.providers[provider].peer, RING_PROTOCOL)
            await ring.send(encode(Activations(((victim, 0, 1),)), hidden(1)))
            await ring.send(encode(Activations(((victim, 5, 1),)), hidden(1, float("nan"))))
            await ring.send(encode(NextTokens(((victim, 3, 7),))))
            answer = await villain.ask(Prompt(victim), token_payload(PROMPT))
            assert isinstance(answer, SessionFailed)
            assert answer.code == "unknown_session"
            assert await villain.ask(CloseSession(victim, 0)) == SessionClosed(victim, 0, 0)
            duplicate = await villain.ask(villain.opening(victim, SPANS[provider]))
            assert isinstance(duplicate, SessionRefused)
            assert duplicate.code == "duplicate"
            assert await villain.ask(CloseSession(victim, 0)) == SessionClosed(victim, 0, 0)
            await ring.aclose()
            await villain.control.aclose()


async def test_a_second_channel_of_the_same_client_cannot_close_the_firsts_sessions(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    assert await villain.ask(villain.opening(A, SPANS[0])) == SessionOpened(A)
    second = await villain.transport.open(swarm.providers[0].peer, CONTROL_PROTOCOL)
    other = replace(villain, control=second)

    assert await other.ask(CloseSession(A, 0)) == SessionClosed(A, 0, 0)
    assert len(swarm.services[0].table) == 1
    await second.aclose()
    assert isinstance(await villain.ask(Ping(1)), Pong)
    assert len(swarm.services[0].table) == 1


@pytest.mark.parametrize(
    ("count", "reason"),
    [(9, "36 bytes of token ids came for 10"), (0, "0 bytes"), (11, "44 bytes")],
)
async def test_a_prompt_of_the_wrong_length_fails_its_session(swarm: MemorySwarm, count: int, reason: str) -> None:
    async with Bystander(swarm):
        villain = await stranger(swarm)
        await villain.ask(villain.opening(A, SPANS[0]))
        failed = await villain.ask(Prompt(A), token_payload([5] * count))
        assert isinstance(failed, SessionFailed)
        assert (failed.code, failed.blamed) == ("bad_prompt", villain.peer)
        assert reason in failed.reason
    await until(lambda: swarm.empty)


async def test_a_prompt_with_a_token_outside_the_vocabulary_or_to_the_wrong_hop_is_refused(
    swarm: MemorySwarm,
) -> None:
    first = await stranger(swarm)
    await first.ask(first.opening(A, SPANS[0]))
    failed = await first.ask(Prompt(A), token_payload([5] * 9 + [300]))
    assert isinstance(failed, SessionFailed)
    assert "outside the model's vocabulary" in failed.reason

    last = await stranger(swarm, 1)
    await last.ask(last.opening(B, SPANS[1]))
    failed = await last.ask(Prompt(B), token_payload(PROMPT))
    assert isinstance(failed, SessionFailed)
    assert "not the first" in failed.reason
    await until(lambda: swarm.empty)


async def test_a_second_prompt_fails_the_session(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    await villain.ask(villain.opening(A, SPANS[0]))
    await villain.say(Prompt(A), token_payload(PROMPT))
    failed = await villain.ask(Prompt(A), token_payload(PROMPT))
    assert isinstance(failed, SessionFailed)
    assert "second prompt" in failed.reason


async def test_a_token_before_the_prompt_fails_the_session(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    await villain.ask(villain.opening(A, SPANS[0]))
    ring = await villain.transport.open(swarm.providers[0].peer, RING_PROTOCOL)
    await ring.send(encode(NextTokens(((A, 0, 5),))))
    failed = await villain.hear()
    assert isinstance(failed, SessionFailed)
    assert "before the prompt" in failed.reason


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"digest": "0" * 64}, "wrong_model"),
    "blocks not served": ({"start": 1, "end": 5}, "wrong_blocks"),
    "no blocks": ({"start": 3, "end": 3}, "wrong_blocks"),
    "blocks turned round": ({"start": 4, "end": 3}, "wrong_blocks"),
    "more than the context": ({"capacity": 513}, "too_long"),
    "a huge capacity": ({"capacity": 1 << 24}, "too_long"),
    "no room for an answer": ({"capacity": 10}, "bad_request"),
    "less fed than the prompt": ({"fed_tokens": 9}, "bad_request"),
    "another wire dtype": ({"wire_dtype": "float16"}, "wrong_dtype"),
    "a top_p of nothing": ({"sampling": (0.5, 0, 0.0, 0.0, 1.0, 0.0, 0.0, None, 0)}, "bad_request"),
    "too many logprobs": ({"sampling": (0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 32, 0)}, "bad_request"),
    "a bias outside the vocabulary": ({"logit_bias": ((300, 1.0),)}, "bad_request"),
    "a penalty without the prompt": ({"sampling": (0.0, 0, 1.0, 0.0, 1.5, 0.0, 0.0, None, 0)}, "bad_request"),
    "scores without the prompt": ({"prompt_scores": True}, "bad_request"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_cannot_be_served_is_refused_and_leaves_nothing_behind(swarm: MemorySwarm, name: str) -> None:
    changes, code = REFUSALS[name]
    villain = await stranger(swarm, 1)
    refused = await villain.ask(villain.opening(A, SPANS[1], **changes))
    assert isinstance(refused, SessionRefused)
    assert refused.code == code
    assert refused.reason
    assert swarm.empty
    assert isinstance(await villain.ask(Ping(1)), Pong), "the channel goes on"


async def test_known_tokens_outside_the_vocabulary_are_refused(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm, 1)
    refused = await villain.ask(villain.opening(A, SPANS[1]), token_payload([300] * 10))
    assert isinstance(refused, SessionRefused)
    assert refused.code == "bad_request"
    assert swarm.empty


async def test_a_neighbour_that_does_not_exist_fails_only_the_session_that_named_it(swarm: MemorySwarm) -> None:
    for following in ("", "nobody", "12D3KooW\x00\u2603", Identity.generate().peer_id):
        async with Bystander(swarm):
            villain = await stranger(swarm)
            await villain.ask(villain.opening(A, SPANS[0], following=following))
            failed = await villain.ask(Prompt(A), token_payload(PROMPT))
            assert isinstance(failed, SessionFailed)
            assert (failed.code, failed.blamed) == ("peer_lost", following)
    await until(lambda: swarm.empty)


async def test_a_provider_of_a_part_is_not_its_own_neighbour(swarm: MemorySwarm) -> None:
    own = swarm.providers[0].peer
    async with Bystander(swarm):
        villain = await stranger(swarm)
        for changes in ({"previous": own}, {"following": own}, {"previous": own, "following": own}):
            refused = await villain.ask(villain.opening(A, SPANS[0], **changes))
            assert isinstance(refused, SessionRefused)
            assert (refused.code, refused.retry_after_ms) == ("bad_request", 0)
    await until(lambda: swarm.empty)


async def never(_: Channel) -> None:
    await asyncio.Event().wait()


async def test_a_neighbour_that_does_not_read_stops_nobody_else(swarm: MemorySwarm) -> None:
    async with Bystander(swarm):
        villain = await stranger(swarm, ring=never)
        for number in range(20):
            session = bytes([number]) * 16
            await villain.say(villain.opening(session, SPANS[0], prompt_tokens=400, fed_tokens=400, capacity=410))
            await villain.say(Prompt(session), token_payload([5] * 400))
    await villain.control.aclose()
    await until(lambda: swarm.empty)


async def test_a_flood_of_work_for_one_session_is_broken_off(swarm: MemorySwarm) -> None:
    async with Bystander(swarm):
        villain, ring = await open_middle(swarm, prompt_tokens=400, fed_tokens=400, limit=500, capacity=500)
        for _ in range(300):
            await ring.send(encode(Activations(((A, 0, 400),)), hidden(400)))
            if swarm.services[1].table.get(A) is None:
                break
        while not isinstance(failed := await villain.hear(), SessionFailed):
            assert isinstance(failed, NewToken | PromptProgress)
        assert failed.blamed == villain.peer
        assert "under way" in failed.reason
    await until(lambda: swarm.empty)


async def test_one_client_cannot_take_all_sessions(swarm: MemorySwarm) -> None:
    villain = await stranger(swarm)
    answers = [await villain.ask(villain.opening(number.to_bytes(16, "big"), SPANS[0])) for number in range(130)]
    assert [type(answer) for answer in answers] == [SessionOpened] * 128 + [SessionRefused] * 2
    async with Bystander(swarm):
        pass
    await villain.control.aclose()
    await until(lambda: swarm.empty)
