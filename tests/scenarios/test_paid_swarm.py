"""Work for money with real processes on a real chain: several epochs, people coming and going, and fraud."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chain.contract_errors import StillThawing
from mesh.client.gateway_http import GatewayHttp
from mesh.errors import MeshError, PaymentRefused
from mesh.payment.credit.units import weighted_tokens
from mesh.payment.onchain.registration import GUARANTEES
from tests.scenarios.paid import (
    GARBAGE,
    GREEDY,
    HASTY,
    IMPATIENT,
    PROMPT_TOKENS,
    REPLAYING,
    SKEWED,
    STRICT,
    PaidSwarm,
    paid_swarm,
    second_model,
    sums,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


def _no_anvil() -> list[str]:
    return []


def _anvil() -> list[str]:
    from tests.chain.npm import anvil

    return ["--anvil-path", str(anvil())]


def cost(tokens: int) -> int:
    """Wei of a request of ours."""
    from mesh.cli.demo_chain import PRICE

    return PRICE * weighted_tokens(PROMPT_TOKENS, tokens)


@pytest.mark.parametrize("arguments", [_no_anvil, _anvil], ids=["embedded", "anvil"])
async def test_three_epochs_with_people_coming_and_going_pay_out_every_wei(
    arguments: Callable[[], list[str]], checkpoint: Path, tmp_path: Path
) -> None:
    other = second_model(checkpoint, tmp_path)
    names = ("ann", "bob", "cid", "gate", "side")
    async with paid_swarm(tmp_path / "run", checkpoint, names, arguments=arguments()) as swarm:
        first, second = swarm.chain.model_id, await swarm.publish(other.name, other)
        ann = await swarm.provider("ann", checkpoint, "0:2")
        bob = await swarm.provider("bob", checkpoint, "2:5")
        await swarm.provider("ann-second", other, "0:5", wallet="ann")
        gate, side = await swarm.gateway("gate"), await swarm.gateway("side")

        epoch = await swarm.chain.next_epoch()
        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200
        assert (await swarm.ask("gate", other.name, 20)).status_code == 200
        assert (await swarm.ask("side", checkpoint.name, 30)).status_code == 200
        await swarm.leave(bob)

        await swarm.chain.next_epoch()
        async with swarm.chain.client("side") as client:
            await client.gateways.wind_down_gateways(["side"])
        await swarm.event(side, "post", epoch=epoch)  # it still owes the epoch that is over
        cid = await swarm.provider("cid", checkpoint, "2:5")
        assert (await swarm.ask("gate", checkpoint.name, 25)).status_code == 200

        third = await swarm.chain.next_epoch()
        bob = await swarm.provider("bob", checkpoint, "2:5")
        assert (await swarm.ask("gate", checkpoint.name, 35)).status_code == 200
        assert swarm.charged == cost(40) + cost(20) + cost(30) + cost(25) + cost(35)

        await swarm.until_vouched("ann", 2 * weighted_tokens(PROMPT_TOKENS, 35), since=third)
        await swarm.until_vouched("bob", 3 * weighted_tokens(PROMPT_TOKENS, 35), "cid", since=third)

        last = await swarm.chain.next_epoch() - 1
        await swarm.event(gate, "post", epoch=last)
        await swarm.chain.next_epoch(3)
        async with swarm.chain.client() as client:
            for _ in range(200):
                found = await sums(client, [first, second])
                if (found.fees, found.shares * 10) == (swarm.charged, swarm.charged) and 0 <= found.dust < 10:
                    break
                await asyncio.sleep(0.5)
        assert found.fees == swarm.charged
        assert found.shares * 10 == swarm.charged, "10%"
        assert 0 <= found.dust < 10, "less than a wei a provider and epoch"
        assert found.royalties * 20 == swarm.charged, "5%"
        burned = swarm.charged + found.emission - found.claimed - found.dust - found.shares - found.royalties
        assert burned * 20 == swarm.charged, "5%"
        assert 2 * found.emission <= burned, "at most half of what was burned is minted"
        await swarm.chain.balances()  # raises unless the balances of all are the supply
        for child in (ann, bob, cid):
            await swarm.event(child, "claim")


WORKED = 400
"""So much that every share of it is worth a dispute."""


async def _served(swarm: PaidSwarm, checkpoint: Path) -> int:
    """Two providers and a gateway have worked for `WORKED` tokens in the epoch that this returns."""
    await swarm.provider("ann", checkpoint, "0:2")
    await swarm.provider("bob", checkpoint, "2:5")
    await swarm.gateway("gate")
    epoch = await swarm.chain.next_epoch()
    assert (await swarm.ask("gate", checkpoint.name, WORKED)).status_code == 200
    for name in ("ann", "bob"):
        await swarm.until_vouched(name, (2 if name == "ann" else 3) * weighted_tokens(PROMPT_TOKENS, WORKED))
    return epoch


async def test_a_gateway_that_leaves_a_provider_out_is_challenged_and_pays(checkpoint: Path, tmp_path: Path) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "gate")) as swarm:
        epoch = await _served(swarm, checkpoint)
        ann, bob = (next(c for c in swarm.family.all if c.name == name) for name in ("ann", "bob"))
        await swarm.kill(next(c for c in swarm.family.all if c.name == "gate"))
        books = swarm.books("gate") / "gateway-gate.sqlite"
        with sqlite3.connect(books) as db:  # it cooks its books: bob has never worked, and ann only half
            db.execute("DELETE FROM slots WHERE provider = 'bob'")
            db.execute("UPDATE slots SET voucher_units = voucher_units / 2 WHERE provider = 'ann'")
        await swarm.chain.next_epoch()
        await swarm.gateway("gate")

        await swarm.event(ann, "challenge", epoch=epoch)  # her leaf is too low: the chain decides at once
        await swarm.event(bob, "open_challenge", epoch=epoch)  # he has none: the gateway may show one, and cannot
        await swarm.chain.next_epoch(4)  # it may answer through the last of its windows
        await swarm.event(bob, "resolve", epoch=epoch)
        for child in (ann, bob):
            await swarm.event(child, "withdraw")
        async with swarm.chain.client() as client:
            status = await client.gateways.status("gate")
        fee = cost(WORKED) * 3 // 5
        assert status.stake <= status.min_stake + GUARANTEES - 2 * fee, "his line paid him, its stake the penalty"
        balances = await swarm.chain.balances()
        assert balances["bob"] - (10_000 - 1_000) * 10**18 >= fee * 8 // 10 - 1, "his share of the fee, less all cuts"


async def test_providers_redeem_by_themselves_when_the_gateway_vanishes(checkpoint: Path, tmp_path: Path) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "gate")) as swarm:
        epoch = await _served(swarm, checkpoint)
        ann, bob = (next(c for c in swarm.family.all if c.name == name) for name in ("ann", "bob"))
        await swarm.kill(next(c for c in swarm.family.all if c.name == "gate"))

        await swarm.chain.next_epoch(2)  # nobody has posted in the epoch after it

        for child in (ann, bob):
            await swarm.event(child, "challenge", epoch=epoch)
            await swarm.event(child, "withdraw")


async def test_a_developer_cannot_spend_more_than_his_deposit(checkpoint: Path, tmp_path: Path) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "gate")) as swarm:
        await swarm.provider("ann", checkpoint, "0:5")
        await swarm.gateway("gate")
        await swarm.chain.next_epoch()
        budget = cost(20)

        short = await swarm.ask("gate", checkpoint.name, 20, budget=budget)
        long = await swarm.ask("gate", checkpoint.name, 400, budget=budget)
        async with swarm.http("gate") as http:  # nobody pays beside it any more
            body = {"model": checkpoint.name, "prompt": [1, 2, 3, 4], "max_tokens": 400}
            unpaid = await http.post("/completions", json=body)

        assert short.status_code == 200
        assert {long.status_code, unpaid.status_code} == {402}
        assert unpaid.json()["error"]["code"] == "insufficient_funds"


async def test_wrong_clocks_change_nothing_about_money_or_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "gate")) as swarm:
        ann = await swarm.provider("ann", checkpoint, "0:2", patch=SKEWED.format(ahead=1.2))
        with pytest.raises(MeshError, match="local time must be within 3 seconds"):
            await swarm.provider("bob", checkpoint, "2:5", patch=SKEWED.format(ahead=600.0))
        bob = await swarm.provider("bob", checkpoint, "2:5", patch=SKEWED.format(ahead=-1.2))
        gate = await swarm.gateway("gate", patch=SKEWED.format(ahead=-1.0))
        epoch = await swarm.chain.next_epoch()

        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200
        await swarm.until_vouched("ann", 2 * weighted_tokens(PROMPT_TOKENS, 40))
        await swarm.until_vouched("bob", 3 * weighted_tokens(PROMPT_TOKENS, 40))

        await swarm.chain.next_epoch()
        await swarm.event(gate, "post", epoch=epoch)
        await swarm.chain.next_epoch(3)
        paid = [(await swarm.event(child, "claim"))["amount"] for child in (ann, bob)]
        # Fee without gateway's share, royalty and burn, with half as much minted as was burned: 82.5%.
        assert sum(paid) * 40 == cost(40) * 33
        assert paid[0] * 3 == paid[1] * 2, "two blocks and three"


async def test_a_provider_that_claims_more_than_it_did_is_paid_for_what_it_did(
    checkpoint: Path, tmp_path: Path
) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "gate")) as swarm:
        ann = await swarm.provider("ann", checkpoint, "0:2", patch=GREEDY)
        bob = await swarm.provider("bob", checkpoint, "2:5")
        gate = await swarm.gateway("gate")
        epoch = await swarm.chain.next_epoch()
        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200
        honest = weighted_tokens(PROMPT_TOKENS, 40)
        await swarm.until_vouched("ann", 2 * honest)
        await swarm.until_vouched("bob", 3 * honest)

        await swarm.chain.next_epoch()
        await swarm.event(gate, "post", epoch=epoch)
        await swarm.chain.next_epoch(3)
        paid = [(await swarm.event(child, "claim"))["amount"] for child in (ann, bob)]

        assert paid[0] * 3 == paid[1] * 2, "two blocks and three, whatever was claimed"
        assert swarm.units("ann", "receipt_units") > swarm.units("ann") == 2 * honest


async def test_a_provider_that_claims_for_the_next_epoch_is_paid_for_what_it_did_and_no_more(
    checkpoint: Path, tmp_path: Path
) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "gate")) as swarm:
        await swarm.provider("ann", checkpoint, "0:2", patch=HASTY)
        await swarm.provider("bob", checkpoint, "2:5")
        gate = await swarm.gateway("gate")
        epoch = await swarm.chain.next_epoch()
        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200
        honest = weighted_tokens(PROMPT_TOKENS, 40)
        await swarm.until_vouched("bob", 3 * honest)
        # Killed and started again, the gateway believes the provider's word no more than before.
        await swarm.kill(gate)
        await swarm.gateway("gate")

        await swarm.chain.next_epoch()
        await swarm.chain.next_epoch()

        with sqlite3.connect(swarm.books("gate") / "gateway-gate.sqlite") as db:
            signed = dict(db.execute("SELECT epoch, voucher_units FROM slots WHERE provider = 'ann'").fetchall())
        assert sum(signed.values()) <= 2 * honest, "no more than its tokens bear out, in whatever epoch"
        assert signed.get(epoch, 0) == 0, "nothing was signed for an epoch that it did not name"


async def test_one_deposit_is_good_at_the_gateway_that_it_is_reserved_for_and_at_no_other(
    checkpoint: Path, tmp_path: Path
) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "gate", "second", "third")) as swarm:
        await swarm.provider("ann", checkpoint, "0:5")
        gate = await swarm.gateway("gate", reserved=cost(400))
        developer = swarm.chain.accounts["developer"]
        for name in ("second", "third"):
            await swarm.gateway(name, reserved=0)
            async with GatewayHttp(swarm.urls[name]) as http:
                with pytest.raises(PaymentRefused, match="reserv"):
                    await http.make_key(developer, developer.canonical, await http.terms())
        epoch = await swarm.chain.next_epoch()

        assert (await swarm.ask("gate", checkpoint.name, 100)).status_code == 200
        await swarm.until_vouched("ann", 5 * weighted_tokens(PROMPT_TOKENS, 100))
        async with swarm.chain.client("developer") as client:  # what is promised stays within reach of the gateway
            left = (await client.escrow.reservation("gate")).available
            await client.escrow.thaw("gate", left)
            with pytest.raises(StillThawing):
                await client.escrow.withdraw_reserved("gate").execute()

        await swarm.chain.next_epoch()
        await swarm.event(gate, "post", epoch=epoch)
        async with swarm.chain.client() as client:
            assert await client.escrow.redeemed(developer.address, "gate") >= swarm.charged


async def test_a_provider_that_bills_for_garbage_loses_the_session_and_gets_at_most_its_credit(
    checkpoint: Path, tmp_path: Path
) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "bad", "gate")) as swarm:
        await swarm.provider("bad", checkpoint, "0:2", patch=GARBAGE)
        await swarm.provider("bob", checkpoint, "2:5")
        await swarm.gateway("gate")
        await swarm.chain.next_epoch()

        failed = await swarm.ask("gate", checkpoint.name, 40)

        assert failed.status_code in (502, 503, 504)
        assert swarm.units("bad") <= 1024 * 2
        await swarm.provider("ann", checkpoint, "0:2")
        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200, "an honest one takes its place"


async def test_a_gateway_that_pays_with_an_old_voucher_again_is_served_its_credit_and_ever_fewer_chances(
    checkpoint: Path, tmp_path: Path
) -> None:
    pause = 2.0
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "gate")) as swarm:
        await swarm.provider("ann", checkpoint, "0:5", patch=STRICT.format(pause=pause))
        await swarm.gateway("gate", patch=REPLAYING + IMPATIENT.format(seconds=10.0))
        await swarm.chain.next_epoch()

        began = time.monotonic()
        for _ in range(4):
            answer = (await swarm.ask("gate", checkpoint.name, 480)).json()
            if "error" in answer:
                break
        # Each chance is waited for twice as long as the one before.
        chances = int(math.log2(1 + (time.monotonic() - began) / pause))

        assert "paid" in answer["error"]["message"]
        vouched = swarm.units("ann")
        claimed = swarm.units("ann", "receipt_units")
        assert 0 < vouched < claimed <= vouched + 1024 * 5 * (1 + chances)


async def test_a_second_gateway_with_the_same_wallet_and_id_is_turned_away(checkpoint: Path, tmp_path: Path) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "gate")) as swarm:
        ann = await swarm.provider("ann", checkpoint, "0:5")
        gate = await swarm.gateway("gate")
        await swarm.gateway("twin", twin_of="gate")
        epoch = await swarm.chain.next_epoch()
        assert (await swarm.ask("gate", checkpoint.name, 20)).status_code == 200

        refused = await swarm.ask("twin", checkpoint.name, 20)

        assert refused.status_code in (502, 503)
        assert "is here already" in refused.json()["error"]["message"]
        assert (await swarm.ask("gate", checkpoint.name, 20)).status_code == 200
        await swarm.until_vouched("ann", 5 * 2 * weighted_tokens(PROMPT_TOKENS, 20))
        await swarm.chain.next_epoch()
        await swarm.event(gate, "post", epoch=epoch)
        await swarm.chain.next_epoch(3)
        assert (await swarm.event(ann, "claim"))["amount"] * 40 == 2 * cost(20) * 33
