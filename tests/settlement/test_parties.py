"""What each party gets when it was away, winds down, leaves or holds something that is not worth what it says."""

from __future__ import annotations

from chain.client.actions import Spend
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.primitives import BPS, FUNC
from mesh.payment.settlement.creator import CreatorSettlement
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, MODEL, OTHER_GATEWAY, OWNERS, ROYALTY_BPS, Town


async def test_a_gateway_that_was_away_says_what_it_missed_and_posts_nothing_late(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    gateway = await town.gateway()
    await town.enter(epoch + 2)
    assert await gateway.round() == await gateway.round() == 0
    assert len(town.told.texts("lost")) == 1


async def test_a_provider_that_was_away_for_many_epochs_gets_everything_at_two_gateways(town: Town) -> None:
    first, d = await town.epoch(), await town.delay()
    gateways = [await town.gateway(GATEWAY), await town.gateway(OTHER_GATEWAY)]
    for epoch in range(first, first + 3):
        for name in (GATEWAY, OTHER_GATEWAY):
            town.work("ann", epoch, 10_000 + epoch, gateway=name)
            town.work("bob", epoch, 5_000, gateway=name)
        await town.enter(epoch + 1)
        for each in gateways:
            assert await each.round() == 1
    await town.enter(first + 3 + 3 * d)
    ann = await town.provider("ann")
    before = town.of("ann", await town.balances())
    assert await ann.round() == 6 + 1  # a proof for each leaf, one claim for all
    assert town.of("ann", await town.balances()) > before
    assert await ann.round() == 0
    assert await (await town.provider("ann")).round() == 0  # nor after another start
    assert not town.told.texts("lost") and not town.exposure("ann")


async def test_a_leaf_whose_voucher_the_journal_has_forgotten_is_proved_all_the_same(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.enter(epoch + 1)
    await gateway.round()
    await ann.round()
    town.journal("ann").prune(epoch + 1)
    assert not town.journal("ann").slots("held", epoch=epoch)
    await town.enter(epoch + d)
    assert await (await town.provider("ann")).round() == 2
    assert await town.reader.settlement.proven_units(GATEWAY, "ann", epoch) == 40_000


async def test_rewards_are_proved_but_left_when_nobody_asked_to_claim(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.gateway(), await town.provider("ann", claims=False)
    await town.enter(epoch + 1)
    await gateway.round()
    await town.enter(epoch + d)
    before = town.of("ann", await town.balances())
    assert await ann.round() == 1
    assert town.of("ann", await town.balances()) == before
    assert await town.reader.providers.view_rewards("ann", epoch, epoch) > 0


async def test_one_bad_voucher_does_not_keep_the_others_from_being_redeemed(town: Town) -> None:
    town.pay(5 * FUNC)
    async with town.net.client(9) as other:
        await other.escrow.deposit_and_reserve(GATEWAY, 10 * FUNC)
    town.pay(3 * FUNC, payer=9)
    payer = faucet(9).canonical
    voucher, signature = town.vouchers.all[payer]
    town.vouchers.all[payer] = (voucher, bytes([signature[0] ^ 1]) + signature[1:])
    gateway = await town.gateway()
    assert await gateway.round() == 1
    assert await town.reader.escrow.credit_of(GATEWAY) == 5 * FUNC
    assert await gateway.round() == 0


async def test_the_creator_s_royalties_are_taken_when_pots_are_filled(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    creator = CreatorSettlement(await town.client("creator"), [MODEL], tell=town.told)
    await town.enter(epoch + 1)
    await gateway.round()
    assert await creator.round() == 0
    await town.enter(epoch + d)
    await ann.round()
    before = town.of("creator", await town.balances())
    assert await creator.round() == 1
    assert await creator.round() == 0
    royalty = await town.fee(epoch, 40_000) * ROYALTY_BPS // BPS
    assert town.of("creator", await town.balances()) - before == royalty


async def test_a_developer_that_overdraws_is_charged_what_there_is_and_the_rest_when_there_is_more(town: Town) -> None:
    town.pay(1500 * FUNC)  # of a reservation of 1000
    gateway = await town.gateway()
    assert await gateway.round() == 1
    assert await town.reader.escrow.credit_of(GATEWAY) == 1000 * FUNC
    assert await gateway.round() == 0
    developer = await town.client("developer")
    await developer.escrow.deposit_and_reserve(GATEWAY, 600 * FUNC)
    await town.enter(await town.epoch() + 1)
    assert await gateway.round() == 1
    assert await town.reader.escrow.credit_of(GATEWAY) == 1500 * FUNC
    await town.enter(await town.epoch() + 1)
    assert await gateway.round() == 0  # the same voucher again is worth nothing
    assert (await developer.escrow.reservation(GATEWAY)).amount == 100 * FUNC


async def test_a_gateway_that_winds_down_still_settles_what_it_owes(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    client, gateway, ann = await town.client(GATEWAY), await town.gateway(), await town.provider("ann")
    await client.gateways.wind_down_gateways([GATEWAY])
    await town.enter(epoch + 1)
    assert await gateway.round() == 1
    await town.enter(epoch + d)
    assert [await gateway.round(), await ann.round()] == [1, 2]
    assert not town.told.texts("refused") and not town.told.texts("trouble")


async def test_a_jailed_gateway_still_posts_because_that_pays_providers(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.equivocate(GATEWAY, epoch)
    assert not (await town.reader.gateways.status(GATEWAY)).eligible
    await town.enter(epoch + 1)
    assert await gateway.round() == 1
    await town.enter(epoch + d)
    assert await ann.round() == 2


async def test_a_provider_that_has_left_still_gets_what_it_earned(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann, client = await town.gateway(), await town.provider("ann"), await town.client("ann")
    await town.enter(epoch + 1)
    await gateway.round()
    await client.providers.deactivate("ann")
    await town.enter(epoch + d)
    await client.providers.unstake_provider("ann")
    before = town.of("ann", await town.balances())
    assert await ann.round() == 2
    assert town.of("ann", await town.balances()) > before


async def test_a_gateway_with_a_name_that_we_would_not_register_pays_like_any_other(town: Town) -> None:
    odd = "odd\u200b\x1b[31m"
    spend = Spend(town.deployment.address("GatewayRegistry"), GATEWAY_STAKE)
    epoch, d = await town.epoch(), await town.delay()
    async with town.net.client(8) as cheat:
        await cheat.core.action("GatewayRegistry", "registerAndStake", odd, "{}", GATEWAY_STAKE, spend=spend)
        OWNERS[odd] = 8
        town.work("ann", epoch, 40_000, gateway=odd)
        town.work("ann", epoch + 1, 40_000, gateway=odd)
        del OWNERS[odd]
        leaves = CheckpointLeaves(odd, MODEL, epoch, {"ann": 30_000})
        tree = leaves.tree()
        await town.enter(epoch + 1)
        fees = await town.fee(epoch, 30_000)
        await cheat.settlement.post_checkpoint(MODEL, epoch, tree.root, 30_000, fees, leaves.data_hash())
    town.store(odd).publish(odd, MODEL, epoch, tree.root, leaves.text().encode())
    town.store(odd).mark_posted(odd, MODEL, epoch, tree.root)
    ann = await town.provider("ann")
    assert await ann.round() == 2  # what the leaf lacks
    await town.enter(epoch + d)
    assert await ann.round() == 4  # proved and claimed; the next epoch was not posted: shown, and withdrawn
    assert not town.exposure("ann") and not town.told.texts("refused")


async def test_providers_with_odd_names_do_not_keep_a_gateway_from_its_other_lines(town: Town) -> None:
    names = ["", "x" * 65, "odd\u200b", "\ud800", "bob", "nobody-registered-this"]
    gateway = await town.gateway(OTHER_GATEWAY, routes=lambda: names, line=150 * FUNC)
    assert await gateway.round() == 1
    assert await town.reader.gateways.guaranteed(OTHER_GATEWAY, "bob") == 150 * FUNC
    assert await gateway.round() == 0
