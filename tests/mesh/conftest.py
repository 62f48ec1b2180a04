"""What tests of swarms in one process share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of five blocks."""
    from tests.shards.models import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("model"))
