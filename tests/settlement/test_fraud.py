"""What happens to money when somebody cheats, hides or is away: on a real chain, with really signed vouchers."""

from __future__ import annotations

import pytest

from chain.contract_errors import InvalidProof, InvalidSignature
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.merkle import Leaf
from chain.primitives import BPS, FUNC, key_of
from chain.vouchers import ContributionVoucher, digest
from mesh.payment.credit.line import Pair
from mesh.payment.settlement.creator import CreatorSettlement
from mesh.payment.settlement.gateway import GatewaySettlement
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, MODEL, OTHER_GATEWAY, OWNERS, ROYALTY_BPS, Town


async def delay(town: Town) -> int:
    return (await town.reader.epochs.status()).reward_delay


async def net_of(town: Town, fee: int) -> int:
    """What a provider gets of a fee by compensation: no emission, the shares are burned."""
    parameters = await town.reader.settlement.parameters()
    taken = (parameters.gateway_share_bps, parameters.burn_bps, ROYALTY_BPS)
    return fee - sum(fee * bps // BPS for bps in taken)


async def stake(town: Town, gateway: str = GATEWAY) -> int:
    return (await town.reader.gateways.status(gateway)).stake


async def test_a_gateway_that_omits_a_provider_pays_it_and_a_penalty(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000, leaf=0)
    town.work("bob", epoch, 10_000)
    owed = await town.fee(epoch, 40_000)
    before = await town.balances()
    gateway, ann, bob = await town.gateway(), await town.provider("ann"), await town.provider("bob")
    await town.enter(epoch + 1)
    assert await gateway.round() == 1
    assert await ann.round() == 1  # the tree lacks it: no need to wait
    assert len(town.told.sent("open_challenge")) == 1
    assert await gateway.round() == 0  # it has nothing to answer with
    await town.enter(epoch + d)
    assert await ann.round() == 2  # resolved, and what came of it withdrawn
    assert [await bob.round(), await gateway.round()] == [2, 1]
    after = await town.balances()
    assert town.of("ann", after) - town.of("ann", before) >= await net_of(town, owed)
    assert town.of("bob", after) > town.of("bob", before)
    assert GATEWAY_STAKE - await stake(town) == 2 * owed + await town.fee(epoch, 10_000)
    assert await ann.round() == 0


async def test_a_gateway_that_understates_a_provider_pays_the_difference_and_a_penalty(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000, leaf=15_000)
    before = await town.balances()
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.enter(epoch + 1)
    await gateway.round()
    assert await ann.round() == 2  # challenged and withdrawn in the same look
    assert len(town.told.sent("challenge")) == 1
    missing = await town.fee(epoch, 25_000)
    compensated = town.of("ann", await town.balances()) - town.of("ann", before)
    assert compensated > await net_of(town, missing)  # with a part of the penalty, as the challenger
    assert GATEWAY_STAKE - await stake(town) == 2 * missing + await town.fee(epoch, 15_000)
    await town.enter(epoch + d)
    assert await ann.round() == 2  # the leaf that was posted is paid as usual
    assert await ann.round() == 0


async def test_leaves_that_are_withheld_are_forced_out_and_then_pay_as_usual(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    town.withheld.add(GATEWAY)
    await town.enter(epoch + 1)
    await gateway.round()
    assert await ann.round() == 0  # perhaps it is only slow
    assert town.told.texts("trouble")
    await town.enter(epoch + 2)
    assert await ann.round() == 1
    assert len(town.told.sent("open_challenge")) == 1
    assert await gateway.round() == 1
    assert len(town.told.sent("answer")) == 1
    assert await ann.round() == 0
    await town.enter(epoch + d)
    before = town.of("ann", await town.balances())
    assert await ann.round() == 2  # proved with the leaf that the answer has shown, and claimed
    assert town.of("ann", await town.balances()) > before
    assert len(town.told.sent("claim")) == 1


async def test_withheld_leaves_that_nobody_shows_cost_the_gateway_all_of_the_voucher(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    town.withheld.add(GATEWAY)
    await town.enter(epoch + 1)
    await gateway.round()
    before = await town.balances()
    await town.enter(epoch + 2)
    assert await ann.round() == 1
    await town.enter(epoch + d)
    assert await ann.round() == 2
    after = await town.balances()
    assert town.of("ann", after) - town.of("ann", before) >= await net_of(town, await town.fee(epoch, 40_000))


async def test_a_provider_redeems_by_itself_when_the_gateway_vanishes_before_the_checkpoint(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    owed = await town.fee(epoch, 40_000)
    before = await town.balances()
    ann = await town.provider("ann")
    await town.enter(epoch + 1)
    assert await ann.round() == 0  # it may still post
    await town.enter(epoch + 2)
    assert await ann.round() == 2
    after = await town.balances()
    assert town.of("ann", after) - town.of("ann", before) >= await net_of(town, owed)
    assert GATEWAY_STAKE - await stake(town) == 2 * owed
    assert await ann.round() == 0


async def test_a_provider_cannot_claim_more_than_its_leaf(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    gateway = await town.gateway()
    await town.enter(epoch + 1)
    await gateway.round()
    await town.enter(epoch + d)
    body = town.store(GATEWAY).published(GATEWAY, MODEL, epoch)
    assert body is not None
    _, proof = CheckpointLeaves.parse(body).proof("ann")
    client = await town.client("ann")
    with pytest.raises(InvalidProof):
        await client.settlement.prove_contribution_for(GATEWAY, "ann", epoch, 40_001, proof)
    with pytest.raises(InvalidProof):
        await client.settlement.prove_contribution("ann", epoch, 60_000, ())


async def test_vouchers_that_a_provider_signs_itself_are_worth_nothing(town: Town) -> None:
    epoch = await town.epoch()
    voucher = ContributionVoucher(key_of(GATEWAY), key_of("ann"), MODEL, epoch, 40_000)
    forged = faucet(OWNERS["ann"]).sign_digest(digest(town.settlement_domain, voucher))
    town.journal("ann").record_voucher("held", Pair(GATEWAY, "ann", MODEL), "peer", epoch, 40_000, forged)
    ann = await town.provider("ann")
    await town.enter(epoch + 2)
    assert await ann.round() == await ann.round() == 0
    (refused,) = town.told.texts("refused")  # told once
    assert InvalidSignature.__name__ in refused
    assert await stake(town) == GATEWAY_STAKE


async def test_a_gateway_opens_a_leaf_that_a_stranger_doubts_with_the_provider_s_receipt(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.enter(epoch + 1)
    await gateway.round()
    body = town.store(GATEWAY).published(GATEWAY, MODEL, epoch)
    assert body is not None
    units, proof = CheckpointLeaves.parse(body).proof("ann")
    async with town.net.client(8) as stranger:
        await stranger.settlement.open_leaf_challenge(GATEWAY, MODEL, epoch, Leaf(key_of("ann"), units), proof)
    assert await gateway.round() == 1
    assert await stake(town) > 0 and len(town.told.sent("answer")) == 1
    await town.enter(epoch + d)
    assert await ann.round() == 2


async def test_a_checkpoint_whose_leaves_do_not_add_up_is_voided_and_the_vouchers_are_paid(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    leaves = CheckpointLeaves(GATEWAY, MODEL, epoch, {"ann": 40_000, "bob": 20_000})
    tree = leaves.tree()
    cheat, ann = await town.client(GATEWAY), await town.provider("ann")
    await town.enter(epoch + 1)
    fees = await town.fee(epoch, 50_000)
    await cheat.settlement.post_checkpoint(MODEL, epoch, tree.root, 50_000, fees, leaves.data_hash())
    town.store(GATEWAY).publish(GATEWAY, MODEL, epoch, tree.root, leaves.text().encode())
    town.store(GATEWAY).mark_posted(GATEWAY, MODEL, epoch, tree.root)
    before = town.of("ann", await town.balances())
    assert await ann.round() == 3  # the sum, the omission, and what both brought
    assert len(town.told.sent("challenge_sum")) == len(town.told.sent("challenge")) == 1
    assert town.of("ann", await town.balances()) - before > await net_of(town, await town.fee(epoch, 40_000))


async def test_a_gateway_that_cannot_cover_its_work_says_so_and_posts_what_it_can_at_the_end(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    status = await town.reader.gateways.status(GATEWAY)
    cover = status.stake - status.min_stake
    units = 10**18 * 4  # far more than the stake pays for
    while await town.fee(epoch, units) > 2 * cover:
        units //= 2
    town.work("ann", epoch, units)
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.enter(epoch + 1)
    assert await gateway.round() == 0
    (said,) = town.told.texts("trouble")
    assert "FUNC" in said and "before the epoch ends" in said
    await town.near_end(epoch + 1, 3)
    assert await gateway.round() == 1
    posted = await town.reader.settlement.checkpoint(GATEWAY, MODEL, epoch)
    assert 0 <= cover - posted.total_fees < FUNC // 100
    before = town.of("ann", await town.balances())
    assert await ann.round() == 2  # the rest, from what is left of the stake
    assert town.of("ann", await town.balances()) > before
    await town.enter(epoch + d)
    assert await ann.round() == 2


async def test_a_deposit_in_time_lets_an_uncovered_gateway_post_everything(town: Town) -> None:
    epoch = await town.epoch()
    units = 4_000_000
    while await town.fee(epoch, units) < 950 * FUNC:
        units += 100_000
    town.work("ann", epoch, units)
    gateway = await town.gateway()
    await town.enter(epoch + 1)
    assert await gateway.round() == 0
    town.pay(await town.fee(epoch, units))
    assert await gateway.round() == 1  # redeemed, though this epoch has seen a redemption
    assert await gateway.round() == 1
    posted = await town.reader.settlement.checkpoint(GATEWAY, MODEL, epoch)
    assert posted.total_units == units


async def test_a_gateway_that_was_away_says_what_it_missed_and_posts_nothing_late(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    gateway = await town.gateway()
    await town.enter(epoch + 2)
    assert await gateway.round() == await gateway.round() == 0
    assert len(town.told.texts("lost")) == 1


async def test_a_provider_that_was_away_for_many_epochs_gets_everything_at_two_gateways(town: Town) -> None:
    first, d = await town.epoch(), await delay(town)
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
    assert not town.told.texts("lost")


async def test_rewards_are_proved_but_left_when_nobody_asked_to_claim(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
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
        await other.escrow.deposit(10 * FUNC)
    town.pay(3 * FUNC, payer=9)
    payer = faucet(9).canonical
    voucher, signature = town.vouchers.all[payer]
    town.vouchers.all[payer] = (voucher, bytes([signature[0] ^ 1]) + signature[1:])
    gateway = await town.gateway()
    assert await gateway.round() == 1
    assert await town.reader.escrow.credit_of(GATEWAY) == 5 * FUNC
    assert await gateway.round() == 0


async def test_of_two_processes_with_one_gateway_s_key_one_posts_and_the_other_says_so(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000)
    first = await town.gateway()
    twin_journal, twin_store = town.journal("twin"), town.store("twin")
    async with town.net.client(OWNERS[GATEWAY]) as client:
        twin = GatewaySettlement(client, GATEWAY, twin_journal, twin_store, tell=town.told)
        slot = (key_of(GATEWAY), key_of("bob"), MODEL, epoch)
        signed = digest(town.settlement_domain, ContributionVoucher(*slot, 20_000))
        voucher = faucet(OWNERS[GATEWAY]).sign_digest(signed)
        for side, journal in (("issued", twin_journal), ("held", town.journal("bob"))):
            journal.record_voucher(side, Pair(GATEWAY, "bob", MODEL), "peer", epoch, 20_000, voucher)  # type: ignore[arg-type]
        await town.enter(epoch + 1)
        assert await first.round() == 1
        assert await twin.round() == 0
    (said,) = town.told.texts("trouble")
    assert "another process" in said
    bob = await town.provider("bob")
    assert await bob.round() == 1  # whom the first knows nothing of: it opens a challenge
    await town.enter(epoch + d)
    before = town.of("bob", await town.balances())
    assert await bob.round() == 2
    assert town.of("bob", await town.balances()) - before >= await net_of(town, await town.fee(epoch, 20_000))


async def test_the_creator_s_royalties_are_taken_when_pots_are_filled(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
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
    town.pay(1500 * FUNC)  # of a deposit of 1000
    gateway = await town.gateway()
    assert await gateway.round() == 1
    assert await town.reader.escrow.credit_of(GATEWAY) == 1000 * FUNC
    assert await gateway.round() == 0
    developer = await town.client("developer")
    await developer.escrow.deposit(600 * FUNC)
    await town.enter(await town.epoch() + 1)
    assert await gateway.round() == 1
    assert await town.reader.escrow.credit_of(GATEWAY) == 1500 * FUNC
    await town.enter(await town.epoch() + 1)
    assert await gateway.round() == 0  # the same voucher again is worth nothing
    assert (await developer.escrow.balance()).balance == 100 * FUNC


async def test_a_gateway_that_winds_down_still_settles_what_it_owes(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
    town.work("ann", epoch, 40_000)
    client, gateway, ann = await town.client(GATEWAY), await town.gateway(), await town.provider("ann")
    await client.gateways.wind_down_gateways([GATEWAY])
    await town.enter(epoch + 1)
    assert await gateway.round() == 1
    await town.enter(epoch + d)
    assert [await gateway.round(), await ann.round()] == [1, 2]
    assert not town.told.texts("refused") and not town.told.texts("trouble")


async def test_a_provider_that_has_left_still_gets_what_it_earned(town: Town) -> None:
    epoch, d = await town.epoch(), await delay(town)
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
