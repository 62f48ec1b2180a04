"""A service level that is promised and missed: measured by gateways, fetched over the mesh, enforced on the chain."""

from __future__ import annotations

from contextlib import AsyncExitStack

from mesh.identity import Identity
from mesh.payment.settlement.leaves import LeavesService
from mesh.payment.sla.enforcer import SlaEnforcer
from mesh.payment.sla.reports import SlaBook
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, OTHER_GATEWAY, OWNERS, STAKE, Town

THIRD = "third-gate"


async def test_a_missed_service_level_costs_stake_and_jails_once_a_quorum_shows_it(town: Town) -> None:
    async with town.net.client(7) as third:
        await third.gateways.register_and_stake(THIRD, "", GATEWAY_STAKE)
    ann = await town.client("ann")
    await ann.slashing.commit_sla("ann", uptime_bps=9_000, latency_ms=1_000, penalty_bps=500, epochs=5)
    await town.enter(await town.epoch() + 1)
    epoch = await town.epoch()
    OWNERS[THIRD] = 7
    async with AsyncExitStack() as stack:
        network = MemoryNetwork()
        gateways, peers = [], {}
        for name in (GATEWAY, OTHER_GATEWAY, THIRD):
            book = SlaBook()
            for number in range(20):
                book.observe("ann", epoch, number % 2 == 0, 30.0)
                book.observe("bob", epoch, number % 2 == 0, 30.0)
            gateways.append(await town.gateway(name, sla=book))
            transport = await stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, network))
            await LeavesService(transport, town.store(name), name).start()
            peers[name] = transport.peer_id
        watcher = await stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, network))
        own = (GATEWAY, town.store(GATEWAY))
        known = {GATEWAY: peers[GATEWAY]}
        enforcer = SlaEnforcer(await town.client(GATEWAY), watcher, lambda: known, own=own, tell=town.told)
        assert await enforcer.round() == 0
        await town.enter(epoch + 1)
        assert [await each.round() for each in gateways] == [0, 0, 0]
        assert await enforcer.round() == 0  # one report is no quorum
        known |= peers
        assert await enforcer.round() == 1
        assert await enforcer.round() == 0
        # Another process knows nothing of this: the chain refuses it, and that is the end of it.
        again = SlaEnforcer(await town.client("bob"), watcher, lambda: known, tell=town.told)
        assert [await again.round() for _ in range(2)] == [0, 0]
    status = await town.reader.providers.status("ann")
    assert status.stake == STAKE - STAKE * 500 // 10_000
    assert status.jailed_until > epoch and not status.active
    assert (await town.reader.providers.status("bob")).active  # who promised nothing breaks nothing
    assert len(town.told.sent("enforce_sla")) == 1
