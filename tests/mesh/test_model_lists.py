"""What a list of all models costs: strangers may list hundreds, and whoever asks again and again pays for each look."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mesh.client.backend import SwarmBackend
from mesh.discovery.directory import MemoryBoard, MemoryDirectory
from mesh.discovery.records import ModelKey, ProviderRecord
from mesh.identity import Identity
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from tests.mesh.sample_record import sample_record

pytestmark = pytest.mark.timeout(30)

MODELS = 60


class CountingDirectory(MemoryDirectory):
    """Counts what it is asked."""

    asked: Counter[str]

    async def models(self, name: str | None = None) -> tuple[ModelKey, ...]:
        self.asked["index"] += 1
        return await super().models(name)

    async def providers(self, model: ModelKey) -> tuple[ProviderRecord, ...]:
        self.asked["providers"] += 1
        return await super().providers(model)


@pytest.fixture
async def board() -> MemoryBoard:
    board = MemoryBoard(clock=time.time)
    for number in range(MODELS):
        stranger = Identity.generate()
        record = replace(sample_record(stranger.peer_id), model=f"model-{number}")
        await MemoryDirectory(stranger, board).announce(record)
    return board


@pytest.fixture
def directory(board: MemoryBoard) -> CountingDirectory:
    made = CountingDirectory(Identity.generate(), board)
    made.asked = Counter()
    return made


@pytest.fixture
async def backend(directory: CountingDirectory) -> AsyncIterator[SwarmBackend]:
    peer = Identity.generate().peer_id
    async with MemoryTransport(peer, MemoryNetwork()) as transport, SwarmBackend(transport, directory) as backend:
        yield backend


async def test_the_index_is_read_once_for_all_models(backend: SwarmBackend, directory: CountingDirectory) -> None:
    assert len(await backend.models()) == MODELS
    assert directory.asked == {"index": 1, "providers": MODELS}
    assert len(await backend.offers()) == MODELS
    assert directory.asked == {"index": 2, "providers": 2 * MODELS}


async def test_who_asks_for_one_model_reads_the_index_anew(backend: SwarmBackend, directory: CountingDirectory) -> None:
    await backend.models()
    directory.asked.clear()
    assert (await backend.offers("model-3"))[0].name == "model-3"
    assert directory.asked == {"index": 1, "providers": 1}
