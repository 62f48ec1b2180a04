"""Chains for all tests of this folder, with a model, two providers, two gateways and a developer on each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chain.client.rpc import Rpc
from tests.chain import npm
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
    yield from _prepared(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def settled_anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    yield from _prepared(tmp_path_factory.mktemp("anvil"), npm.anvil())


def _prepared(folder: Path, anvil: Path | None = None) -> Iterator[ChainProcess]:
    chain = start_chain(folder, "--epoch-length", str(EPOCH_LENGTH), anvil=anvil)

    async def prepare() -> None:
        async with Rpc(chain.url) as rpc:
            await found_town(Net(chain, rpc))

    try:
        with ThreadPoolExecutor(1) as thread:  # a test's loop may be running in this one
            thread.submit(lambda: asyncio.run(prepare())).result()
        yield chain
    finally:
        chain.stop()


async def _town(chain: ChainProcess, folder: Path) -> AsyncIterator[Town]:
    async with Rpc(chain.url) as rpc:
        net = Net(chain, rpc)
        before = await net.snapshot()
        async with Town(net, folder) as town:
            yield town
        await net.automine(True)
        await net.revert(before)


@pytest.fixture
async def town(settled_chain: ChainProcess, tmp_path: Path) -> AsyncIterator[Town]:
    """On the embedded chain; its doings are undone after the test."""
    async for each in _town(settled_chain, tmp_path):
        yield each


@pytest.fixture(params=["chain", "anvil"])
async def any_town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    """On the embedded chain, then on anvil."""
    async for each in _town(request.getfixturevalue(f"settled_{request.param}"), tmp_path):
        yield each
