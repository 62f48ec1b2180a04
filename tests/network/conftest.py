"""Namespaces for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network.namespaces import Namespaces, require


@pytest.fixture
def net() -> Iterator[Namespaces]:
    """Makes namespaces; skips where there can be none."""
    require()
    with Namespaces() as made:
        yield made
