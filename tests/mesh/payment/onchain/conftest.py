"""An embedded chain of a test module's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chain.shells.world import ChainProcess, start_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    running = start_chain(tmp_path_factory.mktemp("chain"))
    try:
        yield running
    finally:
        running.stop()
