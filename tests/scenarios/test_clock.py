"""A provider whose clock jumps while it serves: that is said, and its record is back soon after the clock is right."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from mesh.client.client import Client
from mesh.discovery.records import ProviderRecord
from tests.scenarios.processes import LOOPBACK, World, wait_until
from tests.shifted_clock import ShiftedClock

WRONG_FOR = 20.0
BACK_SECONDS = 15.0


@pytest.mark.slow
@pytest.mark.parametrize("jump", [3600, -3600, 600])
async def test_a_provider_is_found_again_after_its_clock_was_wrong(
    world: World, checkpoint: Path, tmp_path: Path, jump: int
):
    clock = ShiftedClock(tmp_path)
    relay = world.start("relay", "--host-maddrs", LOOPBACK, "--json")
    address = relay.event("relaying")["maddrs"][0]
    provider = world.join(checkpoint, "--blocks", "0:5", peers=address, cold=True, more=clock.environment)
    model = (await asyncio.to_thread(provider.event, "serving"))["model"]
    async with Client([address], runtime_root=world.runtime) as client:

        async def record() -> ProviderRecord | None:
            found = await client.backend.offers(model)
            return found[0].records[0] if found else None

        before = await record()
        assert before is not None
        clock.shift(jump)
        began = time.monotonic()
        way = "ahead of" if jump > 0 else "behind"
        said = f"this machine's clock is {abs(jump):,} s {way} its neighbours'"
        await asyncio.to_thread(wait_until, lambda: said in provider.stderr, "its log says so")
        status = await asyncio.to_thread(world.succeed, "status", "--peers", address)
        assert f"is {abs(jump):,} s {way} this machine's" in status
        await asyncio.sleep(max(0.0, WRONG_FOR - (time.monotonic() - began)))
        clock.shift(0)
        back = time.monotonic()
        while (now := await record()) is None or now.sequence == before.sequence or now.expires < time.time() + 15:
            assert time.monotonic() - back < BACK_SECONDS, now
            await asyncio.sleep(0.2)
        await asyncio.to_thread(wait_until, lambda: "clock is right again" in provider.stderr, "its log says so")
