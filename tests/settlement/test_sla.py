"""A service level that is promised and missed: measured by gateways, fetched over the mesh, enforced on the chain."""

from __future__ import annotations

from contextlib import AsyncExitStack

from mesh.identity import Identity
from mesh.payment.settlement.leaves import LeavesService
from mesh.payment.sla.enforcer import SlaEnforcer
from mesh.payment.sla.known_gateways import KnownGateways
from mesh.payment.sla.reports import SlaBook
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, OTHER_GATEWAY, OWNERS, STAKE, Town

THIRD = "third-gate"
UNITS = 4_000


def seen(epoch: int, *, share: int = 2) -> SlaBook:
    """One request in `share` was answered."""
    book = SlaBook()
    for number in range(20):
        for provider in ("ann", "bob"):
            book.observe(provider, epoch, number % share == 0, 30.0, request=True)
    return book


async def test_a_missed_service_level_costs_stake_once_those_really_served_show_it(
    town: Town,
) -> None:
    async with town.net.client(7) as third:
        await third.gateways.register_and_stake(THIRD, "", GATEWAY_STAKE)
    ann, delay = await town.client("ann"), await town.delay()
    await ann.slashing.commit_sla("ann", uptime_bps=9_000, latency_ms=1_000, penalty_bps=500, epochs=5)
    await town.enter(await town.epoch() + 1)
    epoch = await town.epoch()
    OWNERS[THIRD] = 7
    for gateway in (GATEWAY, OTHER_GATEWAY, THIRD):
        for provider in ("ann", "bob"):
            town.work(provider, epoch, UNITS, gateway=gateway)
    async with AsyncExitStack() as stack:
        network = MemoryNetwork()
        gateways, peers = [], {}
        for name in (GATEWAY, OTHER_GATEWAY, THIRD):
            gateways.append(await town.gateway(name, sla=seen(epoch, share=1 if name == THIRD else 2)))
            transport = await stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, network))
            await LeavesService(transport, town.store(name), name).start()
            peers[name] = transport.peer_id
        watcher = await stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, network))
        known = {GATEWAY: peers[GATEWAY]}
        own = (GATEWAY, town.store(GATEWAY))
        enforcer = SlaEnforcer(await town.client(GATEWAY), watcher, lambda: known, own=own, tell=town.told)
        await town.enter(epoch + 1)
        for each in gateways:
            await each.round()
        workers = [await town.provider(name) for name in ("ann", "bob")]
        for worker in workers:
            await worker.round()
        assert await enforcer.round() == 0  # what was really served is proved only when the epoch is claimable
        await town.enter(epoch + delay)
        for worker in workers:
            await worker.round()
        assert await enforcer.round() == 0  # one of three
        known |= peers
        assert await enforcer.round() == 1
        assert await enforcer.round() == 0
        # Another process knows nothing of this: the chain refuses it, and that is the end of it.
        again = SlaEnforcer(await town.client("bob"), watcher, lambda: known, tell=town.told)
        assert [await again.round() for _ in range(2)] == [0, 0]
    status = await town.reader.providers.status("ann")
    assert status.stake == STAKE - STAKE * 500 // 10_000
    assert status.jailed_until > epoch and not status.eligible
    assert (await town.reader.providers.status("bob")).eligible  # who promised nothing breaks nothing
    assert len(town.told.sent("enforce_sla")) == 1


async def test_gateways_without_the_least_stake_are_not_known_however_many_register(town: Town) -> None:
    peer = Identity.generate().peer_id
    other = await town.client(OTHER_GATEWAY)
    await other.gateways.update_metadata(OTHER_GATEWAY, f'{{"url": "p2p:{peer}"}}')
    async with town.net.client(8) as crowd:
        for number in range(12):
            await crowd.gateways.register(f"!{number:02}", f'{{"url": "p2p:{Identity.generate().peer_id}"}}')
        await crowd.gateways.stake_for_gateway("!00", 1)
        known = KnownGateways(town.reader, most=3)
        await known.look()
        assert known() == {OTHER_GATEWAY: peer}
        await crowd.gateways.stake_for_gateway("!01", GATEWAY_STAKE * 2)
        await known.look()
        assert next(iter(known())) == "!01" and OTHER_GATEWAY in known(), "the most staked first"
