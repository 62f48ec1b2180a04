"""Swarms of real processes that several tests share; everything in this folder carries the marker `processes`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.processes import Swarm, World, start_stages

FOLDER = Path(__file__).parent
PATIENCE_SECONDS = 240  # the machine may be busy with other tests; each wait has its own deadline


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.processes)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE_SECONDS))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of five blocks."""
    from tests.shards.models import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def swarm(checkpoint: Path) -> Iterator[Swarm]:
    """Three providers of `checkpoint`, for tests that only use a swarm and leave it as it is."""
    with World() as world:
        # Little memory, so that a session that is not freed soon leaves no room for another.
        yield start_stages(world, checkpoint, ("0:2", "2:4", "4:5"), "--kv-cache", "2MiB").wait_serving()


@pytest.fixture
def world() -> Iterator[World]:
    """Processes of one test; afterwards nothing of them may be left."""
    with World() as own:
        yield own
