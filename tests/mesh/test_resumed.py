"""An answer that somebody has a part of goes on where it was broken off, wherever that is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mesh.errors import InvalidRequest
from tests.mesh.swarm_in_memory import MemorySwarm, memory_swarm
from tests.mesh.test_failover import BRISK, EVERYTHING, SPANS, ask

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, SPANS, backend=BRISK) as swarm:
        yield swarm


async def test_wherever_it_was_broken_off_the_rest_of_the_answer_is_the_same(swarm: MemorySwarm) -> None:
    request = ask(24, sampling=EVERYTHING)
    texts: list[str] = []
    tokens: list[int] = []
    async with swarm.backend.generate(request) as generation:
        async for delta in generation:
            texts.append(delta.text)
            tokens += delta.tokens
    assert len(tokens) == 24

    for had in (1, 7, 23, 24):
        rest = await swarm.generate(replace(request, resumed=tuple(tokens[:had])))

        assert rest.tokens == tuple(tokens[had:])
        assert rest.text == "".join(texts[had:])
        assert rest.completion.finish_reason == "length"
        assert rest.completion.completion_tokens == 24 - had


async def test_a_stop_string_that_began_before_the_break_is_found(swarm: MemorySwarm) -> None:
    whole = await swarm.generate(ask(24))
    middle = len(whole.text) // 2
    stop = (whole.text[middle : middle + 4],)
    stopped = await swarm.generate(ask(24, stop=stop))
    assert stopped.completion.finish_reason == "stop"

    for had in range(1, len(stopped.tokens) + 1):
        rest = await swarm.generate(ask(24, stop=stop, resumed=stopped.tokens[:had]))
        assert rest.completion.finish_reason == "stop"
        assert rest.tokens == stopped.tokens[had:]


async def test_more_tokens_than_the_answer_may_have_are_refused(swarm: MemorySwarm) -> None:
    with pytest.raises(InvalidRequest, match="more than max_tokens"):
        await swarm.generate(ask(3, resumed=(1, 2, 3, 4)))
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        await swarm.generate(ask(3, resumed=(1 << 20,)))
