"""What a gateway's stake guarantees, and to which provider: lines, cover and debts, on a real chain with real loops."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chain.primitives import FUNC
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, LINE, MODEL, OWNERS, Town

THIRD = "third-gate"


@pytest.fixture
async def third(town: Town) -> AsyncIterator[Town]:
    """A gateway that has no lines yet."""
    async with town.net.client(7) as client:
        await client.gateways.register_and_stake(THIRD, "{}", GATEWAY_STAKE)
    OWNERS[THIRD] = 7
    yield town
    del OWNERS[THIRD]


async def units_for(town: Town, wanted: int) -> int:
    """Units that cost at least so many wei."""
    epoch = await town.epoch()
    return wanted * 40_000 // await town.fee(epoch, 40_000) + 4


async def test_providers_that_a_gateway_routes_to_get_lines_in_one_transaction(third: Town) -> None:
    town = third
    routed = ["ann", "bob"]
    gateway = await town.gateway(THIRD, routes=lambda: routed)
    assert await gateway.round() == 1
    for name in routed:
        assert await town.reader.gateways.guaranteed(THIRD, name) == 10 * FUNC
    assert await gateway.round() == 0
    assert await (await town.gateway(THIRD, routes=lambda: routed)).round() == 0  # nor after another start


async def test_a_line_grows_with_what_is_signed_and_not_in_every_round(third: Town) -> None:
    town = third
    gateway = await town.gateway(THIRD)
    epoch = await town.epoch()
    sent = []
    for fee in (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21, 22, 23, 24):
        town.work("ann", epoch, await units_for(town, fee * FUNC), gateway=THIRD)
        sent.append(await gateway.round())
        guaranteed = await town.reader.gateways.guaranteed(THIRD, "ann")
        assert guaranteed >= 3 * fee * FUNC // 2 and guaranteed >= 10 * FUNC
    assert sum(sent) <= 7
    town.journal(THIRD).note(THIRD, "ann")  # the provider says that it is too short: it sees two epochs
    await town.enter(epoch + 1)
    town.work("ann", epoch + 1, await units_for(town, 24 * FUNC), gateway=THIRD)
    await gateway.round()
    assert await town.reader.gateways.guaranteed(THIRD, "ann") > 4 * 24 * FUNC
    assert not town.journal(THIRD).notices(THIRD)


async def test_a_gateway_that_winds_down_settles_what_it_owes_takes_its_lines_back_and_leaves(third: Town) -> None:
    town = third
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000, gateway=THIRD)
    client, gateway, ann = await town.client(THIRD), await town.gateway(THIRD), await town.provider("ann")
    assert await gateway.round() == 1
    await client.gateways.wind_down_gateways([THIRD])
    end = (await client.gateways.status(THIRD)).wind_down_end
    await town.enter(epoch + 1)
    assert await gateway.round() == 2  # the checkpoint, and the thaw of the line
    assert await ann.round() == 0
    assert not town.exposure("ann")
    for later in range(epoch + 2, max(end, epoch + d + 4)):
        await town.enter(later)
        await gateway.round()
        await ann.round()
    assert len(town.told.sent("release_line")) == 1 and len(town.told.sent("claim")) == 1
    leaves_in = max(end, (await client.gateways.status(THIRD)).unlock_epoch)
    await town.enter(max(leaves_in, await town.epoch() + 1))
    await client.gateways.unstake_for_gateway(THIRD)
    assert not town.told.texts("refused") and not town.told.texts("trouble")


async def test_lines_that_nobody_needs_any_more_are_taken_back_but_not_the_operator_s(third: Town) -> None:
    town = third
    routed = ["ann"]
    client, gateway = await town.client(THIRD), await town.gateway(THIRD, routes=lambda: routed)
    await client.gateways.fund_lines(THIRD, {"bob": 5 * FUNC})
    await gateway.round()
    routed.clear()
    epoch, d = await town.epoch(), await town.delay()
    await town.enter(epoch + 2 * d)
    assert await gateway.round() == 0
    await town.enter(epoch + 2 * d + 1)
    assert await gateway.round() == 1
    assert await town.reader.gateways.guaranteed(THIRD, "ann") == 0
    await town.enter(epoch + 3 * d + 3)
    assert await gateway.round() == 1
    assert (await town.reader.gateways.line(THIRD, "ann")).amount == 0
    assert (await town.reader.gateways.line(THIRD, "bob")).guaranteed == 5 * FUNC
    assert await gateway.round() == 0


async def test_a_gateway_that_cannot_cover_its_work_says_so_and_posts_what_it_can_at_the_end(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    status = await town.reader.gateways.status(GATEWAY)
    cover = status.effective_stake - status.min_stake
    town.work("ann", epoch, await units_for(town, cover * 3 // 2))
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.enter(epoch + 1)
    assert await gateway.round() == 0
    assert any("FUNC" in said and "before the epoch ends" in said for said in town.told.texts("trouble"))
    await town.near_end(epoch + 1, 3)
    assert await gateway.round() == 1
    posted = await town.reader.settlement.checkpoint(GATEWAY, MODEL, epoch)
    assert 0 <= cover - posted.total_fees < FUNC // 100
    before = town.of("ann", await town.balances())
    assert await ann.round() == 2  # the rest, from the line and what is left of the stake
    assert town.of("ann", await town.balances()) > before
    await town.enter(epoch + d)
    assert await ann.round() >= 2


async def test_a_deposit_in_time_lets_an_uncovered_gateway_post_everything(town: Town) -> None:
    epoch = await town.epoch()
    units = await units_for(town, 850 * FUNC)
    town.work("ann", epoch, units)
    gateway = await town.gateway()
    await town.enter(epoch + 1)
    assert await gateway.round() == 0
    town.pay(await town.fee(epoch, units))
    assert await gateway.round() == 1  # redeemed, though this epoch has seen a redemption
    assert await gateway.round() >= 1
    posted = await town.reader.settlement.checkpoint(GATEWAY, MODEL, epoch)
    assert posted.total_units == units


async def test_credit_that_comes_after_all_windows_still_pays_what_is_owed(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    units = await units_for(town, 1200 * FUNC)
    town.work("ann", epoch, units)
    ann = await town.provider("ann")
    before = town.of("ann", await town.balances())
    await town.enter(epoch + 2)  # nothing was posted
    assert await ann.round() == 2
    debt = await town.reader.settlement.debt_units(GATEWAY, "ann", epoch)
    assert await town.fee(epoch, debt) >= 300 * FUNC - 1
    assert town.exposure("ann") == {epoch: debt}  # so there is no more credit for this gateway
    await town.enter(epoch + 3 * d)
    assert await ann.round() == 0
    town.pay(1000 * FUNC)
    gateway = await town.gateway(claims=False)
    assert await gateway.round() == 1
    assert any("owes providers" in said for said in town.told.texts("trouble"))
    assert await ann.round() == 2  # collected, and withdrawn
    assert await town.reader.settlement.debt_of(GATEWAY) == 0
    assert not town.exposure("ann")
    earned = town.of("ann", await town.balances()) - before
    assert earned >= await town.net_of(await town.fee(epoch, units)) - 2
    assert await ann.round() == 0
    assert not town.told.texts("lost")


async def test_what_one_provider_takes_leaves_the_line_of_another_untouched(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, await units_for(town, 1500 * FUNC))
    town.work("bob", epoch, await units_for(town, LINE - FUNC))
    ann, bob = await town.provider("ann"), await town.provider("bob")
    before = await town.balances()
    await town.enter(epoch + 2)
    assert await ann.round() == 2  # takes its own line and all of the rest of the stake
    assert (await town.reader.gateways.status(GATEWAY)).effective_stake == 0
    assert await bob.round() == 2
    after = await town.balances()
    assert town.of("bob", after) - town.of("bob", before) >= await town.net_of(LINE - FUNC)
    assert not town.exposure("bob") and town.exposure("ann")


async def test_a_dust_of_credit_is_not_worth_a_transaction(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, await units_for(town, 1200 * FUNC))
    ann, developer = await town.provider("ann"), await town.client("developer")
    await town.enter(epoch + 2)
    await ann.round()
    await developer.escrow.top_up_credit(GATEWAY, FUNC // 1000)
    assert await ann.round() == 0
    await developer.escrow.top_up_credit(GATEWAY, FUNC)
    assert await ann.round() == 2
