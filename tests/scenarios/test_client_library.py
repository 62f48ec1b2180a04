"""The client library as the README shows it, against a swarm of three processes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from mesh.client.client import Client
from mesh.client.sync import SyncClient
from mesh.errors import Cancelled, ContextLengthExceeded, InternalError, InvalidRequest, PeerUnreachable, UnknownModel
from tests.scenarios.processes import Swarm, wait_until

PROMPT = "a span is half-open"
MESSAGES = [{"role": "user", "content": "what is a span?"}]


@pytest.fixture(scope="module")
def client(swarm: Swarm):
    with SyncClient(peers=[swarm.address], runtime_root=swarm.world.runtime) as client:
        yield client


def sessions(swarm: Swarm) -> int:
    (model,) = swarm.world.status(swarm.address)
    return sum(provider["sessions"] for provider in model["providers"])


async def test_the_library_lists_generates_streams_and_chats(swarm: Swarm):
    async with Client(peers=[swarm.address]) as client:
        (model,) = await client.models()
        assert (model.name, model.n_blocks, model.complete) == ("llama", 5, True)
        answer = await client.generate("llama", PROMPT, max_tokens=20, logprobs=2, ignore_eos=True)
        assert len(answer.tokens) == len(answer.logprobs) == answer.completion.completion_tokens == 20
        assert [str(hop.span) for hop in answer.completion.route] == ["0:2", "2:4", "4:5"]
        pieces = []
        async for delta in client.stream("llama", PROMPT, max_tokens=20, ignore_eos=True):
            pieces.append(delta)
        assert "".join(piece.text for piece in pieces) == answer.text
        assert tuple(token for piece in pieces for token in piece.tokens) == answer.tokens
        chat = await client.chat("llama", MESSAGES, max_tokens=5)
        tokenizer = await client.backend.tokenizer("llama")
        templated = tokenizer.encode(tokenizer.apply_chat_template(MESSAGES), add_special_tokens=False)
        assert chat.completion.prompt_tokens == len(templated)
        assert (await client.generate("llama", templated, max_tokens=5)).tokens == chat.tokens
        many = await asyncio.gather(
            *(client.generate("llama", PROMPT, max_tokens=20, ignore_eos=True) for _ in range(4))
        )
        assert {each.tokens for each in many} == {answer.tokens}


async def test_cancelling_from_another_task_ends_the_stream_and_frees_every_hop(swarm: Swarm):
    async with Client(peers=[swarm.address]) as client:
        generation = client.stream("llama", PROMPT, max_tokens=400, ignore_eos=True)
        started = asyncio.Event()
        count = 0

        async def read() -> None:
            nonlocal count
            async for delta in generation:
                count += len(delta.tokens)
                started.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            await started.wait()
            await generation.cancel()
        assert 0 < count < 400 and generation.completion is None
        waiting = client.stream("llama", PROMPT, max_tokens=400, ignore_eos=True)
        answer = asyncio.create_task(waiting.answer())
        await asyncio.sleep(0.05)
        await waiting.cancel()
        with pytest.raises(Cancelled):
            await answer
        # Each needs an eighth of the memory that the first hop has.
        for _ in range(40):
            async with client.stream("llama", PROMPT, max_tokens=490, ignore_eos=True) as left:
                async for _ in left:
                    break
        assert len((await client.generate("llama", PROMPT, max_tokens=4, ignore_eos=True)).tokens) == 4


async def test_cancelling_the_task_that_reads_is_a_cancellation(swarm: Swarm):
    async with Client(peers=[swarm.address]) as client:
        task = asyncio.create_task(client.generate("llama", PROMPT, max_tokens=400, ignore_eos=True))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.generate("llama", PROMPT, max_tokens=2)).completion.completion_tokens <= 2


async def test_the_default_number_of_tokens_fits_the_context(swarm: Swarm):
    async with Client(peers=[swarm.address]) as client:
        answer = await client.generate("llama", [5] * 500, ignore_eos=True)
        assert answer.completion.completion_tokens == 12


def test_the_blocking_client_says_the_same(swarm: Swarm, client: SyncClient):
    (model,) = client.models()
    assert model.complete
    answer = client.generate("llama", PROMPT, max_tokens=20, ignore_eos=True)
    with client.stream("llama", PROMPT, max_tokens=20, ignore_eos=True) as generation:
        assert "".join(delta.text for delta in generation) == answer.text
    assert generation.completion is not None and generation.completion.completion_tokens == 20
    chat = client.chat("llama", MESSAGES, max_tokens=5, seed=1, temperature=0.8)
    said = "".join(delta.text for delta in client.stream_chat("llama", MESSAGES, max_tokens=5, seed=1, temperature=0.8))
    assert said == chat.text


def test_leaving_a_blocking_stream_early_frees_the_session(swarm: Swarm, client: SyncClient):
    for delta in client.stream("llama", PROMPT, max_tokens=400, ignore_eos=True):
        assert delta.tokens
        break
    with client.stream("llama", PROMPT, max_tokens=400, ignore_eos=True) as generation:
        next(iter(generation))
    # Records are renewed every eight seconds.
    wait_until(lambda: sessions(swarm) == 0, "no session is open", seconds=30)


def test_a_blocking_stream_can_be_cancelled_from_another_thread(client: SyncClient):
    generation = client.stream("llama", PROMPT, max_tokens=400, ignore_eos=True)
    deltas = iter(generation)
    next(deltas)
    thread = threading.Thread(target=generation.cancel)
    thread.start()
    rest = sum(len(delta.tokens) for delta in deltas)
    thread.join(10)
    assert rest < 399 and generation.completion is None


def test_what_cannot_be_served_is_told_by_type_and_the_next_request_is_served(client: SyncClient):
    with pytest.raises(UnknownModel, match="no provider serves a model named 'nothing'"):
        client.generate("nothing", PROMPT)
    with pytest.raises(ContextLengthExceeded, match="over the model's context of 512"):
        client.generate("llama", [5] * 600)
    with pytest.raises(InvalidRequest, match="max_tokens must be at least 1, got 0"):
        client.generate("llama", PROMPT, max_tokens=0)
    with pytest.raises(InvalidRequest, match="max_tokens must be at least 1, got -3"):
        client.generate("llama", PROMPT, max_tokens=-3)
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        client.generate("llama", [])
    with pytest.raises(InvalidRequest, match="token 300 is outside the vocabulary"):
        client.generate("llama", [300])
    with pytest.raises(InvalidRequest, match="temperature"):
        client.generate("llama", PROMPT, temperature=-1)
    with pytest.raises(InvalidRequest, match="not Unicode"):
        client.generate("llama", "half a character \udcc3")
    assert client.generate("llama", PROMPT, max_tokens=3, ignore_eos=True).completion.completion_tokens == 3


def test_a_client_that_is_not_entered_says_so():
    with pytest.raises(InternalError, match="with SyncClient"):
        SyncClient(peers=["/ip4/127.0.0.1/tcp/1/p2p/none"]).models()


def test_a_client_that_reaches_nobody_says_so(swarm: Swarm, unused_tcp_port: int, tmp_path: Path):
    nobody = f"/ip4/127.0.0.1/tcp/{unused_tcp_port}/p2p/{swarm.peer(0)}"
    with pytest.raises(PeerUnreachable, match="none of the initial peers could be reached"):
        SyncClient(peers=[nobody], runtime_root=swarm.world.runtime).__enter__()


def test_the_blocking_client_can_be_opened_again(swarm: Swarm):
    for _ in range(2):
        with SyncClient(peers=[swarm.address]) as client:
            assert client.models()
