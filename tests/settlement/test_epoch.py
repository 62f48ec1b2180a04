"""An epoch from work to money, on a real chain."""

from __future__ import annotations

from chain.primitives import BPS
from tests.settlement.town import GATEWAY, MODEL, Town


async def test_an_honest_epoch_pays_everybody_and_every_wei_is_accounted_for(any_town: Town) -> None:
    town = any_town
    epoch = await town.epoch()
    town.work("ann", epoch, 30_001)
    town.work("bob", epoch, 20_002)
    fees = await town.fee(epoch, 50_003)
    before = await town.balances()
    gateway, ann, bob = await town.gateway(), await town.provider("ann"), await town.provider("bob")
    assert await gateway.round() == 0  # the epoch is not over
    town.pay(fees)

    await town.enter(epoch + 1)
    assert await gateway.round() == 2  # the developer's voucher, and the checkpoint
    assert await gateway.round() == 0
    assert await ann.round() == await bob.round() == 0
    posted = await town.reader.settlement.checkpoint(GATEWAY, MODEL, epoch)
    assert (posted.total_units, posted.total_fees) == (50_003, fees)
    assert list(town.vouchers.paid.values()) == [fees]

    delay = (await town.reader.epochs.status()).reward_delay
    for later in range(epoch + 2, epoch + delay):
        await town.enter(later)
        assert [await party.round() for party in (gateway, ann, bob)] == [0, 0, 0]
    await town.enter(epoch + delay)
    assert [await party.round() for party in (gateway, ann, bob)] == [1, 2, 2]  # prove and claim
    assert [await party.round() for party in (gateway, ann, bob)] == [0, 0, 0]

    after = await town.balances()
    parameters = await town.reader.settlement.parameters()
    share, burned = fees * parameters.gateway_share_bps // BPS, fees * parameters.burn_bps // BPS
    royalty = await town.reader.settlement.royalty_of(MODEL)
    emitted = burned // 2  # half of what the same traffic burns; the budget of an epoch is larger
    pot = fees - share - burned - royalty + emitted
    earned = {name: town.of(name, after) - town.of(name, before) for name in ("ann", "bob", GATEWAY)}
    assert earned["ann"] == pot * 30_001 // 50_003
    assert earned["ann"] + earned["bob"] + (after["pool"] - before["pool"]) == pot
    assert earned[GATEWAY] == share
    # Σ paid = Σ charged: from the deposit to the parties, what is burned and what waits for the creator.
    assert before["Escrow"] - after["Escrow"] == fees
    changed = sum(after[name] - before[name] for name in after if name not in ("supply", "Escrow"))
    assert changed == fees - burned + emitted and after["supply"] - before["supply"] == emitted - burned
    assert not town.told.texts("refused") and not town.told.texts("trouble") and not town.told.texts("lost")
    assert all(each.tx_hash for each in town.told.events)
