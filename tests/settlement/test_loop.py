"""The loops of settlement by themselves: through a node that fails, until they are stopped."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from chain.client.retry import RetryPolicy
from mesh.payment.settlement.gateway import GatewaySettlement
from mesh.payment.settlement.loop import SettlementEvent
from mesh.payment.settlement.provider import ProviderSettlement
from tests.chain.shells.proxy import Verdict, proxy
from tests.chain.shells.world import eventually
from tests.settlement.town import GATEWAY, MODEL, Town


async def test_the_loops_live_through_a_node_that_fails_and_settle_when_it_is_back(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    d = (await town.reader.epochs.status()).reward_delay
    down = asyncio.Event()
    troubled = asyncio.Event()
    chosen = random.Random(4)

    def decide(number: int, body: Any) -> Verdict:
        if down.is_set():
            return "bad gateway"
        return chosen.choice(["pass", "pass", "pass", "pass", "drop", "swallow"])

    def tell(event: SettlementEvent) -> None:
        town.told(event)
        if event.what == "chain":
            troubled.set()

    retry = RetryPolicy(deadline=0.5, attempt_timeout=2.0, first=0.01, most=0.05)
    async with proxy(town.net.url, decide) as between:
        options: dict[str, Any] = {"url": between.url, "retry": retry}
        async with town.net.client(1, **options) as one, town.net.client(2, **options) as two:
            gateway = GatewaySettlement(one, GATEWAY, town.journal(GATEWAY), town.store(GATEWAY), poll=0.05, tell=tell)
            ann = ProviderSettlement(two, town.journal("ann"), town.store("ann"), town.fetch, poll=0.05, tell=tell)
            tasks = [asyncio.create_task(each.run()) for each in (gateway, ann)]
            down.set()
            await asyncio.wait_for(troubled.wait(), 30)
            await town.enter(epoch + 1)
            down.clear()

            async def posted() -> bool:
                return bool((await town.reader.settlement.checkpoint(GATEWAY, MODEL, epoch)).status)

            async def paid() -> bool:
                gateway.wake()
                ann.wake()
                return bool(town.told.sent("claim")) and bool(town.told.sent("claim_share"))

            await eventually(posted, "the checkpoint", 60)
            await town.enter(epoch + d)
            await eventually(paid, "the claims", 60)
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    assert len(town.told.sent("post")) == len(town.told.sent("claim")) == 1
    assert await town.reader.settlement.proven_units(GATEWAY, "ann", epoch) == 40_000
