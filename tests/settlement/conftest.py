"""One embedded chain for all tests of this folder, with a model, two providers, a gateway and a developer on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chain.client.rpc import Rpc
from tests.chain.shells.world import ChainProcess, Net, start_chain
from tests.settlement.town import EPOCH_LENGTH, Town, found_town

FOLDER = Path(__file__).parent
PATIENCE_SECONDS = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE_SECONDS))


@pytest.fixture(scope="session")
def settled_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    chain = start_chain(tmp_path_factory.mktemp("chain"), "--epoch-length", str(EPOCH_LENGTH))

    async def prepare() -> None:
        async with Rpc(chain.url) as rpc:
            await found_town(Net(chain, rpc))

    asyncio.run(prepare())
    yield chain
    chain.stop()


@pytest.fixture
async def town(settled_chain: ChainProcess, tmp_path: Path) -> AsyncIterator[Town]:
    """Its doings are undone after the test."""
    async with Rpc(settled_chain.url) as rpc:
        net = Net(settled_chain, rpc)
        before = await net.snapshot()
        async with Town(net, tmp_path) as town:
            yield town
        await net.automine(True)
        await net.revert(before)
