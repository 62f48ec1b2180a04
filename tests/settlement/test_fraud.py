"""What happens to money when a gateway cheats or hides: on a real chain, with really signed vouchers."""

from __future__ import annotations

import pytest

from chain.contract_errors import InvalidProof, InvalidSignature
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.primitives import key_of
from chain.vouchers import ContributionVoucher, digest
from mesh.payment.credit.line import Pair
from mesh.payment.settlement.gateway import GatewaySettlement
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, MODEL, OWNERS, Town


async def test_a_gateway_that_omits_a_provider_pays_it_and_a_penalty(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
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
    assert await ann.round() == 0  # it may still be answered
    assert [await bob.round(), await gateway.round()] == [2, 1]
    await town.enter(epoch + d + 1)
    assert await ann.round() == 2  # resolved, and what came of it withdrawn
    after = await town.balances()
    assert town.of("ann", after) - town.of("ann", before) >= await town.net_of(owed)
    assert town.of("bob", after) > town.of("bob", before)
    assert GATEWAY_STAKE - await town.stake() == 2 * owed + await town.fee(epoch, 10_000)
    assert await ann.round() == 0
    assert not town.exposure("ann")


async def test_a_gateway_that_understates_a_provider_pays_the_difference_and_a_penalty(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000, leaf=15_000)
    before = await town.balances()
    gateway, ann = await town.gateway(), await town.provider("ann")
    await town.enter(epoch + 1)
    await gateway.round()
    assert town.exposure("ann") == {epoch: 40_000}
    assert await ann.round() == 2  # challenged and withdrawn in the same look
    assert len(town.told.sent("challenge")) == 1
    assert not town.exposure("ann")
    missing = await town.fee(epoch, 25_000)
    compensated = town.of("ann", await town.balances()) - town.of("ann", before)
    assert compensated > await town.net_of(missing)  # with a part of the penalty, as the challenger
    assert GATEWAY_STAKE - await town.stake() == 2 * missing + await town.fee(epoch, 15_000)
    await town.enter(epoch + d)
    assert await ann.round() == 2  # the leaf that was posted is paid as usual
    assert await ann.round() == 0


async def test_leaves_that_are_withheld_are_forced_out_and_then_pay_as_usual(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    town.withheld.add(GATEWAY)
    await town.enter(epoch + 1)
    await gateway.round()
    assert await ann.round() == 0  # perhaps it is only slow
    assert town.told.texts("trouble")
    await town.enter(epoch + 2)
    before = await town.balances()
    assert await ann.round() == 1
    assert len(town.told.sent("open_challenge")) == 1
    bond = town.of("ann", before) - town.of("ann", await town.balances())
    assert bond == await town.fee(epoch, 40_000) // 10  # in proportion to what it can bring
    assert await gateway.round() == 1
    assert len(town.told.sent("answer")) == 1
    assert (await town.balances())["supply"] == before["supply"] - bond  # nobody gains by withholding
    assert town.exposure("ann")
    assert await ann.round() == 0
    assert not town.exposure("ann")
    await town.enter(epoch + d)
    before = await town.balances()
    assert await ann.round() == 2  # proved with the leaf that the answer has shown, and claimed
    assert town.of("ann", await town.balances()) > town.of("ann", before)
    assert len(town.told.sent("claim")) == 1


async def test_withheld_leaves_that_nobody_shows_cost_the_gateway_all_of_the_voucher(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.gateway(), await town.provider("ann")
    town.withheld.add(GATEWAY)
    await town.enter(epoch + 1)
    await gateway.round()
    before = await town.balances()
    await town.enter(epoch + 2)
    assert await ann.round() == 1
    await town.enter(epoch + d + 1)
    assert await ann.round() == 2
    after = await town.balances()
    assert town.of("ann", after) - town.of("ann", before) >= await town.net_of(await town.fee(epoch, 40_000))


async def test_an_answer_with_too_small_a_leaf_pays_the_rest_at_once(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000, leaf=15_000)
    before = await town.balances()
    gateway, ann = await town.gateway(), await town.provider("ann")
    town.withheld.add(GATEWAY)
    await town.enter(epoch + 1)
    await gateway.round()
    await town.enter(epoch + d - 1)
    await ann.round()
    await town.enter(epoch + d)  # the last moment for an answer
    assert await gateway.round() == 2  # the answer, and our share of the epoch
    assert await town.reader.settlement.compensated_units(GATEWAY, "ann", epoch) == 25_000
    assert await ann.round() == 3  # the leaf is proved and claimed, the rest and the bond withdrawn
    paid = town.of("ann", await town.balances()) - town.of("ann", before)
    assert paid > await town.net_of(await town.fee(epoch, 40_000))
    assert await ann.round() == 0 and not town.exposure("ann")


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
    assert town.of("ann", after) - town.of("ann", before) >= await town.net_of(owed)
    assert GATEWAY_STAKE - await town.stake() == 2 * owed
    assert await ann.round() == 0


async def test_a_voucher_is_still_shown_in_the_last_epoch_of_its_window_and_lost_after_it(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 40_000)
    ann, bob = await town.provider("ann"), await town.provider("bob")
    await town.enter(epoch + d)
    assert await ann.round() == 2
    await town.enter(epoch + d + 1)
    assert await bob.round() == 0
    (lost,) = town.told.texts("lost")
    assert "40000 units" in lost
    assert [each.written_off for each in town.journal("bob").exposures()] == [True]
    assert not town.told.texts("refused")


async def test_a_provider_cannot_claim_more_than_its_leaf(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
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
    assert await town.stake() == GATEWAY_STAKE


async def test_a_step_that_the_chain_refuses_does_not_keep_other_epochs_from_being_paid(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 40_000)
    stranger = faucet(OWNERS["ann"]).sign_digest(bytes(32))
    for number in range(3):
        gone = Pair(f"gone-{number}", "ann", MODEL)  # gateways that the chain does not know
        town.journal("ann").record_voucher("held", gone, "peer", epoch, 40_000, stranger)
    ann = await town.provider("ann")
    await town.enter(epoch + 2)
    assert await ann.round() == 2  # shown, and withdrawn
    assert len(town.told.sent("challenge")) == 1


async def test_a_checkpoint_whose_total_is_not_that_of_its_tree_hides_all_leaves_and_costs_all_vouchers(
    town: Town,
) -> None:
    epoch, d = await town.epoch(), await town.delay()
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
    assert await ann.round() == 1  # such leaves prove nothing: no need to wait
    assert len(town.told.sent("open_challenge")) == 1
    await (await town.gateway()).round()  # whatever it answers is refused
    await town.enter(epoch + d + 1)
    assert await ann.round() == 2
    gained = town.of("ann", await town.balances()) - before
    assert gained > await town.net_of(await town.fee(epoch, 40_000))


async def test_of_two_processes_with_one_gateway_s_key_one_posts_and_the_other_says_so(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
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
    await town.enter(epoch + d + 1)
    before = town.of("bob", await town.balances())
    assert await bob.round() == 2
    assert town.of("bob", await town.balances()) - before >= await town.net_of(await town.fee(epoch, 20_000))
