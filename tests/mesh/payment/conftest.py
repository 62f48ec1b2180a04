"""A swarm that is paid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.mesh.payment.money import THREE, Money
from tests.mesh.swarm_in_memory import MemorySwarm, memory_swarm


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[MemorySwarm]:
    async with memory_swarm(folder, THREE, money=Money(), unverified=True) as swarm:
        yield swarm
