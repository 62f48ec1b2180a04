"""A client asks providers for the round trips between them, and its routes avoid the long ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.client.backend import BackendConfig
from mesh.client.outlook import LookConfig
from mesh.client.types import GenerateRequest
from mesh.transport.pairs_service import pairs_handler
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from mesh.wire.pairs import PAIRS_PROTOCOL, PairState
from shards.model.span import Span
from tests.mesh.swarm_in_memory import MODEL, MemorySwarm, Provider, memory_swarm, until
from tests.shards.models import make_checkpoint

NEAR, FAR = 0.0004, 0.4
ASKS_AT_ONCE = BackendConfig(looks=LookConfig(renewed_after=0.01), pairs_delay=0.0, pairs_seconds=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("told") / "llama", "llama")


async def say(provider: Provider, round_trips: dict[str, float]) -> None:
    pairs = [PairState(peer, "direct", 1, seconds, None, None) for peer, seconds in round_trips.items()]

    async def tell() -> list[PairState]:
        return pairs

    await provider.transport.serve(PAIRS_PROTOCOL, pairs_handler(tell))


async def routes(swarm: MemorySwarm, count: int) -> list[tuple[str, ...]]:
    request = GenerateRequest(MODEL, prompt=(1, 2, 3), max_tokens=2)
    answers = [await swarm.generate(request) for _ in range(count)]
    return [tuple(hop.peer for hop in answer.completion.route) for answer in answers]


async def test_sessions_stay_on_the_near_side_once_providers_have_told_how_far_they_are(folder: Path) -> None:
    spans = [Span(0, 3), Span(0, 3), Span(3, 5), Span(3, 5)]
    async with memory_swarm(folder, spans, backend=ASKS_AT_ONCE) as swarm:
        here, there, here_too, there_too = swarm.providers
        sides = {here.peer: "here", here_too.peer: "here", there.peer: "there", there_too.peer: "there"}
        for provider in swarm.providers:
            others = {peer: NEAR if side == sides[provider.peer] else FAR for peer, side in sides.items()}
            await say(provider, {peer: seconds for peer, seconds in others.items() if peer != provider.peer})
        await routes(swarm, 1)  # which asks them on the side
        await until(lambda: len(swarm.backend._pair_times.between(sides)) == 12)
        await routes(swarm, 1)  # which looks at the directory on the side
        await until(lambda: not swarm.backend._outlook._looking)
        assert all(sides[first] == sides[last] for first, last in await routes(swarm, 12))


async def test_providers_that_do_not_answer_or_answer_nonsense_cost_nothing(folder: Path) -> None:
    async with memory_swarm(folder, [Span(0, 3), Span(3, 5)], backend=ASKS_AT_ONCE) as swarm:

        async def rubbish(channel: Channel) -> None:
            await channel.send(Frame(b"\xc1"))

        await swarm.providers[0].transport.serve(PAIRS_PROTOCOL, rubbish)
        assert len(set(await routes(swarm, 3))) == 1
        assert swarm.backend._pair_times.between([provider.peer for provider in swarm.providers]) == {}
