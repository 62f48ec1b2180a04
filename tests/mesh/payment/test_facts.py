"""Facts of the chain: a request that needs several of them does not wait for each where the chain is slow."""

from __future__ import annotations

import asyncio
import time

import pytest

from mesh.payment.facts import PATIENCE_SECONDS, Cached, Silence

pytestmark = pytest.mark.timeout(60)

NEEDED = 5
"""Facts of one request."""


async def test_a_request_waits_for_a_slow_chain_once_and_not_at_each_fact_that_it_needs() -> None:
    takes = [0.0]

    async def ask(key: int) -> int:
        await asyncio.sleep(takes[0])
        return key

    silence = Silence()
    kinds = [Cached(ask, fresh=0.05, silence=silence) for _ in range(NEEDED)]
    for number, kind in enumerate(kinds):
        assert await kind.get(number) == number
    takes[0] = 1.3 * PATIENCE_SECONDS
    took = []
    for _ in range(8):
        await asyncio.sleep(0.11)
        began = time.monotonic()
        for number, kind in enumerate(kinds):
            assert await kind.get(number) == number
        took.append(time.monotonic() - began)
    assert max(took) < 2 * PATIENCE_SECONDS and sum(took) < 3 * PATIENCE_SECONDS, took
    assert silence.is_slow
    takes[0] = 0.0
    await asyncio.sleep(1.5 * PATIENCE_SECONDS)
    await kinds[0].get(0)
    assert await kinds[0].get(0) == 0
    await asyncio.sleep(0.01)
    assert not silence.is_slow  # a quick answer, and newer ones are waited for again
    for kind in kinds:
        await kind.close()
