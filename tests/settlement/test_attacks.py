"""Attacks on the honest software of both sides, played out with the real loops: attackers gain nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chain.abi import load
from chain.client.pending import Call
from chain.contract_errors import GatewayInDebt, NotStaked
from chain.devnet.accounts import faucet
from chain.leaves import CheckpointLeaves
from chain.merkle import Sibling, leaf_hash, parent
from chain.primitives import FUNC, key_of
from chain.vouchers import ContributionVoucher, PaymentVoucher, digest
from tests.settlement.town import GATEWAY, GATEWAY_STAKE, LINE, MODEL, OTHER_GATEWAY, OWNERS, Town

# Sends what follows the first word of its calldata to the address in that word, and reverts if that does.
FORWARDER = bytes.fromhex("602036038060206000376000600091600060006000355af160205760006000fd5b00")
DEPLOY = bytes.fromhex("60228060093d393df3") + FORWARDER


@pytest.fixture
async def forwarder(town: Town) -> AsyncIterator[str]:
    """A contract through which the cheating gateway calls, so that nothing can be read from its transactions."""
    client = await town.client(GATEWAY)
    sent = await client.core.signer.send(Call(None, DEPLOY, "forwarder", gas=200_000))
    yield (await town.net.rpc.call("eth_getTransactionReceipt", sent.tx_hash))["contractAddress"]


async def forward(town: Town, forwarder: str, function: str, *arguments: object) -> None:
    inner = load("Settlement").function(function).encode(arguments)
    to = bytes.fromhex(town.deployment.address("Settlement")[2:])
    call = Call(forwarder, bytes(12) + to + inner, function, gas=900_000)
    await (await town.client(GATEWAY)).core.signer.send(call)


def signed(town: Town, provider: str, epoch: int, units: int) -> tuple[ContributionVoucher, bytes]:
    """A voucher that the gateway signs for a purpose of its own."""
    voucher = ContributionVoucher(key_of(GATEWAY), key_of(provider), MODEL, epoch, units)
    return voucher, faucet(OWNERS[GATEWAY]).sign_digest(digest(town.settlement_domain, voucher))


def posted_leaves(town: Town, epoch: int) -> CheckpointLeaves:
    body = town.store(GATEWAY).published(GATEWAY, MODEL, epoch)
    assert body is not None
    return CheckpointLeaves.parse(body)


async def test_withheld_leaves_of_tiny_work_bring_no_bond(town: Town) -> None:
    epoch = await town.epoch()
    town.work("ann", epoch, 4)  # a thousandth of a FUNC
    town.work("bob", epoch, 400_000)
    town.withheld.add(GATEWAY)
    gateway, ann, bob = await town.gateway(), await town.provider("ann"), await town.provider("bob")
    await town.enter(epoch + 1)
    assert await gateway.round() == 2  # a checkpoint of 100 FUNC, and a longer line for bob
    await town.enter(epoch + 2)
    before = await town.balances()
    assert [await ann.round(), await bob.round()] == [0, 1]
    after = await town.balances()
    assert town.of("ann", after) == town.of("ann", before)
    assert town.of("bob", before) - town.of("bob", after) == await town.fee(epoch, 400_000) // 10


async def test_an_answer_through_another_contract_still_gives_the_provider_its_proof(
    town: Town, forwarder: str
) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    town.withheld.add(GATEWAY)
    gateway, ann = await town.gateway(claims=False), await town.provider("ann")
    before = await town.balances()
    await town.enter(epoch + 1)
    await gateway.round()
    await town.enter(epoch + 2)
    assert await ann.round() == 1
    units, proof = posted_leaves(town, epoch).proof("ann")
    await forward(town, forwarder, "answerOmission", 0, units, list(proof))
    await town.enter(epoch + d)
    assert await ann.round() == 2  # proved and claimed
    after = await town.balances()
    fee = await town.fee(epoch, 40_000)
    assert town.of("ann", after) - town.of("ann", before) > await town.net_of(fee) - fee // 10  # but for its bond
    assert town.of(GATEWAY, after) <= town.of(GATEWAY, before)


async def test_a_leaf_shown_by_a_small_challenge_of_the_gateway_itself_gives_the_provider_its_proof(
    town: Town, forwarder: str
) -> None:
    """With a voucher of one unit more than the leaf nothing is missing any more, so it cannot be asked for."""
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    town.work("bob", epoch, 20_000)
    town.withheld.add(GATEWAY)
    gateway, ann = await town.gateway(), await town.provider("ann")
    before = await town.balances()
    await town.enter(epoch + 1)
    await gateway.round()
    units, proof = posted_leaves(town, epoch).proof("ann")
    voucher, signature = signed(town, "ann", epoch, units + 1)
    await forward(town, forwarder, "challengeOmission", voucher, signature, units, list(proof))
    await town.enter(epoch + 2)
    assert await ann.round() == 0 and not town.exposure("ann")
    await town.enter(epoch + d)
    assert await ann.round() == 2
    gained = town.of("ann", await town.balances()) - town.of("ann", before)
    assert gained > await town.net_of(await town.fee(epoch, 40_000))


@pytest.mark.parametrize("shown_first", ["small", "large"])
async def test_of_two_leaves_of_one_provider_it_is_paid_for_all_of_its_voucher(town: Town, shown_first: str) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 40_000)
    gateway, ann = await town.client(GATEWAY), await town.provider("ann")
    root, small, large = two_leaves(epoch, small=400, large=40_000)
    await town.enter(epoch + 1)
    fees = await town.fee(epoch, root.units)
    await gateway.settlement.post_checkpoint(MODEL, epoch, root.hash, root.units, fees, bytes(32))
    await town.enter(epoch + 2)
    before = town.of("ann", await town.balances())
    assert await ann.round() == 1  # no list of leaves makes such a root: they count as withheld
    shown, beside = (small, large) if shown_first == "small" else (large, small)
    await gateway.settlement.answer_omission(0, shown.units, [beside])
    assert await ann.round() == (1 if shown_first == "small" else 0)  # the rest is compensated, and the bond comes back
    await town.enter(epoch + d)
    async with town.net.client(8) as stranger:  # that has the small one proved first changes nothing
        await stranger.settlement.prove_contribution_for(GATEWAY, "ann", epoch, 400, [large])
    await ann.round()
    fee = await town.fee(epoch, 40_000)
    gained = town.of("ann", await town.balances()) - before
    assert gained > await town.net_of(fee) - fee // 10 - await town.fee(epoch, 400)
    assert not town.exposure("ann")


def two_leaves(epoch: int, *, small: int, large: int) -> tuple[Sibling, Sibling, Sibling]:
    """The root of a tree in which ann has two leaves, and both of them."""
    one, two = (
        Sibling(leaf_hash(key_of(GATEWAY), key_of("ann"), MODEL, epoch, units), units) for units in (small, large)
    )
    return parent(one, two), one, two


async def test_challenges_of_a_gateway_against_itself_hold_nothing_that_others_are_paid_from(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, await units_for(town, LINE + 300 * FUNC), leaf=0)
    town.work("bob", epoch, 40_000)
    cheat, gateway, ann = await town.client(GATEWAY), await town.gateway(claims=False), await town.provider("ann")
    before = await town.balances()
    await town.enter(epoch + 1)
    await gateway.round()
    for units in range(1_000, 11_000, 1_000):  # of ann's line, and of bob's
        for provider in ("ann", "bob"):
            await cheat.settlement.open_omission_challenge(*signed(town, provider, epoch, units))
    assert await ann.round() == 1  # our own, over all of it
    await town.enter(epoch + d + 1)
    assert await ann.round() == 2
    after = await town.balances()
    assert town.of("ann", after) - town.of("ann", before) >= await town.net_of(LINE + 300 * FUNC)
    assert town.of(GATEWAY, after) < town.of(GATEWAY, before)


async def test_nothing_that_others_leave_undecided_freezes_a_claim(town: Town) -> None:
    epoch, d = await town.epoch(), await town.delay()
    town.work("ann", epoch, 400_000)
    town.work("bob", epoch, 40_000, gateway=OTHER_GATEWAY)
    gateway, other, ann = await town.gateway(), await town.gateway(OTHER_GATEWAY), await town.provider("ann")
    await town.enter(epoch + 1)
    for each in (gateway, other):
        await each.round()
    voucher = ContributionVoucher(key_of(OTHER_GATEWAY), key_of("bob"), MODEL, epoch, 50_000)
    signature = faucet(OWNERS[OTHER_GATEWAY]).sign_digest(digest(town.settlement_domain, voucher))
    async with town.net.client(8) as accomplice:
        await accomplice.settlement.open_omission_challenge(voucher, signature)
    await town.enter(epoch + d)  # nobody resolves it
    before = town.of("ann", await town.balances())
    assert await ann.round() == 2
    assert town.of("ann", await town.balances()) - before > await town.net_of(await town.fee(epoch, 400_000))
    assert not town.told.texts("refused")


async def test_vouchers_that_grow_by_a_wei_cost_the_gateway_no_gas(town: Town) -> None:
    gateway = await town.gateway()
    for index in (7, 8, 9):
        async with town.net.client(index) as developer:
            await developer.escrow.deposit_and_reserve(GATEWAY, 1000)
    for amount in range(1, 4):
        for index in (7, 8, 9):
            town.pay(amount, payer=index)
        await town.enter(await town.epoch() + 1)
        assert await gateway.round() == 0
    assert not town.told.sent("redeem")


async def test_a_developer_cannot_take_back_what_a_gateway_has_accepted(town: Town) -> None:
    """Neither by a thaw, nor through a gateway of its own, nor by leaving just before the gateway redeems."""
    epoch, d = await town.epoch(), await town.delay()
    developer, gateway = await town.client("developer"), await town.gateway()
    town.pay(400 * FUNC)
    await developer.escrow.thaw(GATEWAY, 1000 * FUNC)
    await developer.gateways.register("sink", "{}")
    account = faucet(OWNERS["developer"])
    sink = PaymentVoucher(account.canonical, key_of("sink"), 2**128)
    with pytest.raises(NotStaked):
        await developer.escrow.redeem(sink, account.sign_digest(digest(town.escrow_domain, sink)))
    assert await gateway.round() == 1
    town.pay(500 * FUNC)  # signed after this epoch's redemption
    await town.enter(epoch + d)  # the last epoch but one before it may be withdrawn
    assert await gateway.round() == 1
    town.pay(550 * FUNC)
    assert await gateway.round() == 1  # it hurries, though this epoch has seen a redemption
    await town.enter(epoch + d + 1)
    before = town.of("developer", await town.balances())
    await developer.escrow.withdraw_reserved(GATEWAY)
    assert town.of("developer", await town.balances()) - before == 450 * FUNC
    assert await town.reader.escrow.credit_of(GATEWAY) == 550 * FUNC


async def test_a_gateway_that_signs_for_more_than_it_has_does_not_walk_away_with_its_developers_money(
    town: Town,
) -> None:
    epoch, d = await town.epoch(), await town.delay()
    units = await units_for(town, 1400 * FUNC)
    town.work("ann", epoch, units)
    town.pay(1000 * FUNC)
    cheat, ann = await town.client(GATEWAY), await town.provider("ann")
    before = await town.balances()
    await town.enter(epoch + 2)
    assert await ann.round() == 2  # all of the stake that is not another's line
    await town.enter(epoch + d + 1)  # when every window has closed, it comes for its developers' money
    voucher, signature = town.vouchers.all[faucet(OWNERS["developer"]).canonical]
    await cheat.escrow.redeem(voucher, signature)
    await cheat.escrow.thaw_credit(GATEWAY, 1000 * FUNC)
    await cheat.gateways.thaw_line(GATEWAY, "bob", LINE)
    end = (await town.reader.escrow.credit(GATEWAY)).thaw_end
    await town.enter(end)
    with pytest.raises(GatewayInDebt):
        await cheat.escrow.withdraw_credit(GATEWAY)
    assert await ann.round() == 2
    after = await town.balances()
    fee = await town.fee(epoch, units)
    assert town.of("ann", after) - town.of("ann", before) >= await town.net_of(fee) - 2
    left = await town.reader.escrow.credit_of(GATEWAY) + await town.stake()
    gained = town.of(GATEWAY, after) - town.of(GATEWAY, before) + left - GATEWAY_STAKE
    assert gained <= 1000 * FUNC - fee  # what its developers paid, less what it owed for their work


async def units_for(town: Town, wanted: int) -> int:
    """Units that cost at least so many wei."""
    epoch = await town.epoch()
    return wanted * 40_000 // await town.fee(epoch, 40_000) + 4
