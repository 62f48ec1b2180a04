"""One embedded chain and one anvil for all tests of this folder; each test's doings are undone after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chain.client.rpc import Rpc
from tests.chain import npm
from tests.chain.shells.world import ChainProcess, Net, start_chain

FOLDER = Path(__file__).parent
PATIENCE_SECONDS = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE_SECONDS))


@pytest.fixture(scope="session")
def embedded_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    chain = start_chain(tmp_path_factory.mktemp("embedded"))
    yield chain
    chain.stop()


@pytest.fixture(scope="session")
def anvil_path() -> Path:
    return npm.anvil()


@pytest.fixture(scope="session")
def anvil_chain(tmp_path_factory: pytest.TempPathFactory, anvil_path: Path) -> Iterator[ChainProcess]:
    chain = start_chain(tmp_path_factory.mktemp("anvil"), anvil=anvil_path)
    yield chain
    chain.stop()


async def _net(chain: ChainProcess) -> AsyncIterator[Net]:
    async with Rpc(chain.url) as rpc:
        net = Net(chain, rpc)
        before = await net.snapshot()
        yield net
        await net.automine(True)
        await net.revert(before)


@pytest.fixture
async def net(embedded_chain: ChainProcess) -> AsyncIterator[Net]:
    """The embedded chain."""
    async for each in _net(embedded_chain):
        yield each


@pytest.fixture(params=["embedded", "anvil"])
async def any_net(request: pytest.FixtureRequest) -> AsyncIterator[Net]:
    """Both, one after the other."""
    async for each in _net(request.getfixturevalue(f"{request.param}_chain")):
        yield each
