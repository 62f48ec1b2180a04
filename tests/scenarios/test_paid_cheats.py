"""Every cheat with real processes on a real chain, and what it costs: what a cheat owns is counted before and after.

The tests share one chain with an honest provider and an honest gateway; every cheat has a wallet of its own. Each test
prints a line of figures for each cheat (`-s` shows them).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chain.client.staking import StakingClient
from chain.contract_errors import InsufficientBalance, InvalidSignature, StillThawing
from chain.primitives import key_of
from chain.units import WEI_PER_FUNC
from chain.vouchers import ContributionVoucher, Domain, PaymentVoucher, digest
from mesh.cli.demo_chain import PRICE
from mesh.cli.processes import Child
from mesh.client.gateway_http import GatewayHttp
from mesh.errors import PaymentRefused
from mesh.payment.credit.units import weighted_tokens
from tests.scenarios.cheats import (
    BACKDATED,
    GENEROUS,
    HIDER,
    INCREMENT,
    LATE,
    LIAR,
    OWN_GATEWAY,
    THIEF,
    Split,
    cost,
    tell,
    worth,
)
from tests.scenarios.paid import (
    EVENT_SECONDS,
    HASTY,
    PROMPT_TOKENS,
    START_SECONDS,
    PaidSwarm,
    paid_swarm,
    request,
    second_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

BLOCKS = 5
UNIT = PRICE // BLOCKS
"""Wei of the work of one block for one weighted token."""
PEOPLE = ("ann", "fair", "thief", "liar", "hider", "late", "dan", "second", "third", "hasty", "stale", "heir")
PEOPLE += ("puppet", "eve", "mal", "self")


@dataclass
class Town:
    """The swarm that the tests share: `ann` is an honest provider of all blocks, `fair` an honest gateway."""

    swarm: PaidSwarm
    ann: Child
    fair: Child
    model: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with paid_swarm(tmp_path_factory.mktemp("cheats"), checkpoint, PEOPLE) as swarm:
        swarm.poll = 0.6
        ann = await swarm.provider("ann", checkpoint, "0:5")
        yield Town(swarm, ann, await swarm.gateway("fair"), checkpoint)


@pytest_asyncio.fixture(loop_scope="module")
async def town(shared: Town) -> AsyncIterator[Town]:
    """Nobody of one test's cheats is left in the next."""
    yield shared
    for child in shared.swarm.family.all:
        if child not in (shared.ann, shared.fair) and child.name != "chain" and child.process.returncode is None:
            await shared.swarm.kill(child)


async def settled(client: StakingClient, provider: str, owner: str, epoch: int) -> None:
    """Wait until a provider's loop has taken all that the chain has for it of an epoch."""
    async with asyncio.timeout(EVENT_SECONDS):
        while await client.settlement.payments_of(owner) or await client.providers.view_rewards(provider, epoch, epoch):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def final(client: StakingClient, model_id: int, epoch: int) -> Any:
    """What the chain said when it filled the pot of an epoch."""
    async for event in client.core.events("Settlement", "EpochFinalized"):
        if (event.arguments.model_id, event.arguments.epoch) == (model_id, epoch):
            return event.arguments
    raise AssertionError("it was not finalised")


async def test_a_gateway_that_takes_vouchers_and_pays_no_provider_loses_more_than_it_kept(town: Town) -> None:
    swarm, chain, ann = town.swarm, town.swarm.chain, town.ann
    patches = {"thief": THIEF, "liar": LIAR, "hider": HIDER, "late": LATE}
    gates = {"fair": town.fair} | {name: await swarm.gateway(name, patch=patch) for name, patch in patches.items()}
    developer = chain.accounts["developer"].address
    began = {name: await worth(chain, [name], gateways=[name]) for name in gates}
    ann_began = await worth(chain, ["ann"], providers=["ann"])

    epoch = await chain.next_epoch()
    for answer in await asyncio.gather(*(swarm.ask(name, town.model.name, 400) for name in gates)):
        assert answer.status_code == 200
    work = BLOCKS * weighted_tokens(PROMPT_TOKENS, 400)
    await swarm.until_vouched("ann", work * len(gates), since=epoch)

    await chain.next_epoch()
    for name in ("fair", "liar", "hider", "late"):
        await swarm.event(gates[name], "post", epoch=epoch)
    await swarm.event(ann, "open_challenge", epoch=epoch, gateway="liar")
    await swarm.kill(gates["liar"])  # it has nothing to say that would help it
    await swarm.event(gates["thief"], "redeem", epoch=epoch + 1)
    await swarm.kill(gates["thief"])  # it makes off, and takes what it can
    async with chain.client("thief") as client:
        await client.escrow.thaw_credit("thief", await client.escrow.credit_of("thief"))
        await client.gateways.thaw_line("thief", "ann", (await client.gateways.line("thief", "ann")).amount)
        for leave in (client.escrow.withdraw_credit("thief"), client.gateways.release_line("thief", "ann")):
            with pytest.raises(StillThawing):
                await leave.execute()

    await chain.next_epoch()
    await swarm.event(ann, "challenge", epoch=epoch, gateway="thief")
    for name in ("hider", "late"):
        await swarm.event(ann, "open_challenge", epoch=epoch, gateway=name)
    await swarm.event(gates["late"], "answer", epoch=epoch)
    await swarm.kill(gates["hider"])
    await chain.next_epoch(2)
    for name in ("fair", "late"):
        await swarm.event(ann, "prove", epoch=epoch, gateway=name)
    await chain.next_epoch()
    for name in ("liar", "hider"):
        await swarm.event(ann, "resolve", epoch=epoch, gateway=name)
    async with chain.client() as client:
        await settled(client, "ann", chain.accounts["ann"].address, epoch)
        taken = {name: await client.escrow.redeemed(developer, name) for name in gates}
        pot = (await final(client, chain.model_id, epoch)).pot

    full, one = Split(cost(400)), Split(-(-cost(400) // work))
    gained = {name: await worth(chain, [name], gateways=[name]) - began[name] for name in gates}
    gain = {name: gained[name] - (taken[name] - full.fee + full.share) for name in gates}
    assert gain == {
        "fair": 0,
        "thief": -full.share - full.fee,
        "liar": -full.share - full.fee - (one.fee - one.share),
        "hider": -2 * full.fee,
        "late": 0,
    }
    assert all(gained[name] < 0 for name in ("thief", "liar", "hider")), "also with what was paid in advance"
    assert all(0 <= taken[name] - full.fee <= INCREMENT for name in gates)
    compensated = full.net + full.finder
    earned = await worth(chain, ["ann"], providers=["ann"]) - ann_began
    assert earned == pot * 2 * work // (3 * work + 1) + 3 * compensated - full.bond
    assert compensated >= full.reward, "who is cheated of its fee gets no less than who is not"

    for name, what in (("thief", "posts nothing"), ("liar", "leaves all out"), ("hider", "never shows its leaves")):
        loss = full.reward - compensated
        tell(f"a gateway that {what}", gain=gain[name], loss=loss, bound=f"the emission, {full.emission} wei")
    tell("a gateway that shows its leaves late", gain=gain["late"], loss=full.bond, bound=f"the bond, {full.bond} wei")


async def test_one_deposit_pays_one_gateway_of_three(town: Town) -> None:
    swarm, chain = town.swarm, town.swarm.chain
    dan, others = chain.accounts["dan"], ("second", "third")
    for name in others:
        await swarm.gateway(name, reserved=0)
    began = await worth(chain, ["dan"])
    ann_began = await worth(chain, ["ann"], providers=["ann"])
    gates_began = {name: await worth(chain, [name], gateways=[name]) for name in others}
    epoch = await chain.next_epoch()
    deposit = cost(400)
    async with chain.client("dan") as client:
        await client.escrow.deposit(deposit + len(others))
        await client.escrow.reserve("fair", deposit)
        for name in others:
            with pytest.raises(InsufficientBalance):
                await client.escrow.reserve(name, deposit).execute()
            await client.escrow.reserve(name, 1)  # a wei opens the door
    for name in ("fair", *others):
        swarm.keys[f"dan@{name}"] = await swarm.make_key(name, "dan")

    before = swarm.charged
    assert (await swarm.ask("fair", town.model.name, 100, developer="dan")).status_code == 200
    for name in others:
        async with GatewayHttp(swarm.urls[name], swarm.keys[f"dan@{name}"]) as http:
            terms = await http.terms()
            with pytest.raises(PaymentRefused) as refused:
                await http.pay(dan, PaymentVoucher(dan.canonical, terms.gateway_key, deposit), terms.domain)
            assert refused.value.code == "voucher_not_covered"
        async with swarm.http(name, "dan") as raw:
            await swarm.until_complete(raw, town.model.name)
            assert (await raw.post("/completions", json=request(town.model.name, 100))).status_code == 402
    async with chain.client("dan") as client:
        async with asyncio.timeout(EVENT_SECONDS):  # once an epoch; else it would come between the next two calls
            while not await client.escrow.redeemed(dan.address, "fair"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        await client.escrow.thaw("fair", (await client.escrow.reservation("fair")).available)
        with pytest.raises(StillThawing):
            await client.escrow.withdraw_reserved("fair").execute()
        with pytest.raises(InsufficientBalance):
            await client.escrow.reserve("second", deposit).execute()
    # What thaws buys nothing more, once the gateway has seen it.
    async with asyncio.timeout(START_SECONDS), swarm.http("fair", "dan") as raw:
        while (answer := await raw.post("/completions", json=request(town.model.name, 20))).status_code == 200:
            swarm.charged += int(answer.json()["usage"]["cost"]["wei"])
            await asyncio.sleep(0.5)
    assert answer.status_code == 402
    got = swarm.charged - before
    await swarm.until_vouched("ann", BLOCKS * weighted_tokens(PROMPT_TOKENS, 100), since=epoch)

    await chain.next_epoch()
    await swarm.event(town.fair, "post", epoch=epoch)
    await chain.next_epoch(4)
    await swarm.event(town.ann, "prove", epoch=epoch, gateway="fair")
    async with chain.client("dan") as client:
        await client.escrow.withdraw_reserved("fair")
        paid = {name: await client.escrow.redeemed(dan.address, name) for name in ("fair", *others)}
        await settled(client, "ann", chain.accounts["ann"].address, epoch)

    assert paid["second"] == paid["third"] == 0
    assert got <= paid["fair"] <= min(deposit, got + INCREMENT)
    assert began - await worth(chain, ["dan"]) == paid["fair"]
    assert await worth(chain, ["ann"], providers=["ann"]) - ann_began == Split(got).reward
    loss = sum([gates_began[name] - await worth(chain, [name], gateways=[name]) for name in others])
    assert loss == 0
    gain = got - paid["fair"]
    assert gain <= 0
    tell(
        "a developer with one deposit at three gateways",
        gain=gain,
        loss=loss,
        bound=f"one increment, {INCREMENT} wei, a gateway",
    )


def signed_for(swarm: PaidSwarm, provider: str) -> dict[int, int]:
    """Units by epoch that the honest gateway has signed for."""
    with sqlite3.connect(swarm.books("fair") / "gateway-fair.sqlite") as db:
        query = "SELECT epoch, voucher_units FROM slots WHERE provider = ? AND voucher_units > 0"
        return {int(epoch): int(units) for epoch, units in db.execute(query, (provider,))}


async def test_a_provider_that_claims_double_and_for_the_next_epoch_gains_nothing(town: Town, tmp_path: Path) -> None:
    swarm, chain = town.swarm, town.swarm.chain
    other = second_model(town.model, tmp_path, "hasty-model")
    model_id = await swarm.publish(other.name, other)
    await swarm.provider("hasty", other, "0:5", patch=HASTY)
    began = await worth(chain, ["hasty"], providers=["hasty"])

    epoch = await chain.next_epoch()
    assert (await swarm.ask("fair", other.name, 100)).status_code == 200
    async with asyncio.timeout(EVENT_SECONDS):
        # All is claimed while it is this epoch, as work of the next one: later it would be claimed for the one after.
        while swarm.units("hasty", "receipt_units") < 2 * BLOCKS * weighted_tokens(PROMPT_TOKENS, 100):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)  # for the gateway to have it
        await chain.next_epoch()
        while not signed_for(swarm, "hasty"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await chain.next_epoch()
    await swarm.event(town.fair, "post", epoch=epoch + 1, model_id=model_id)
    await chain.next_epoch(3)

    honest, signed = Split(cost(100)), signed_for(swarm, "hasty")
    if swarm.units("hasty"):  # its own books may have refused the voucher: it did not claim what they say that it did
        async with chain.client() as client, asyncio.timeout(EVENT_SECONDS):
            while not await client.settlement.proven_units("fair", "hasty", epoch + 1):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    gain = await worth(chain, ["hasty"], providers=["hasty"]) - began - honest.reward
    loss = sum(signed.values()) * UNIT - honest.fee
    assert gain <= 0 and loss <= 0 and list(signed) == [epoch + 1]
    tell("a provider that claims double, for the next epoch", gain=gain, loss=loss, bound="0 wei")


async def test_what_a_provider_signs_with_a_key_that_was_replaced_is_worth_nothing(town: Town, tmp_path: Path) -> None:
    swarm, chain = town.swarm, town.swarm.chain
    other = second_model(town.model, tmp_path, "stale-model")
    model_id = await swarm.publish(other.name, other)
    stale = await swarm.provider("stale", other, "0:5", patch=BACKDATED)
    # A gateway whose first key, which the provider has got hold of, is replaced too.
    async with chain.client("puppet") as client:
        await client.gateways.register_and_stake("puppet", "{}", 200 * WEI_PER_FUNC)
        await client.gateways.fund_lines("puppet", {"stale": 50 * WEI_PER_FUNC})
    began = await worth(chain, ["stale"], providers=["stale"])
    puppet_began = await worth(chain, ["puppet"], gateways=["puppet"])

    epoch = await chain.next_epoch()
    async with chain.client("heir") as heir, chain.client("stale") as owner, chain.client("puppet") as other_owner:
        consent = heir.providers.sign_consent("stale", owner.address)
        await owner.providers.set_signer("stale", heir.address, consent)
        consent = heir.gateways.sign_consent("puppet", other_owner.address)
        await other_owner.gateways.set_signer("puppet", heir.address, consent)
    before = swarm.charged
    asked = asyncio.create_task(swarm.ask("fair", other.name, 240))  # what it is worth stays within the credit
    async with asyncio.timeout(EVENT_SECONDS):
        while swarm.units("stale") < BLOCKS * weighted_tokens(PROMPT_TOKENS, 10):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await chain.next_epoch()
    # What is under way ends as it can; then the gateway sees whose key this is, and asks it for nothing more.
    assert (await asked).status_code == 200
    async with swarm.http("fair") as http, asyncio.timeout(EVENT_SECONDS):
        while (answer := await http.post("/completions", json=request(other.name, 4))).status_code == 200:
            swarm.charged += int(answer.json()["usage"]["cost"]["wei"])
            await asyncio.sleep(0.5)
    assert answer.status_code in (404, 502, 503, 504)
    assert any("does not sign for provider 'stale'" in line for line in town.fair.log)

    # Nor does the chain take a voucher that the old key of a gateway has signed for the new epoch.
    async with chain.client("stale") as client:
        settlement = bytes.fromhex(chain.deployment.address("Settlement")[2:])
        forged = ContributionVoucher(key_of("puppet"), key_of("stale"), model_id, epoch + 1, 10**6)
        signature = chain.accounts["puppet"].sign_digest(digest(Domain(chain.deployment.chain_id, settlement), forged))
        with pytest.raises(InvalidSignature):
            await client.settlement.challenge_omission(forged, signature).execute()

    await swarm.event(town.fair, "post", epoch=epoch, model_id=model_id)
    await chain.next_epoch(3)
    await swarm.event(stale, "claim")
    signed = signed_for(swarm, "stale")
    assert list(signed) == [epoch], "nothing was signed for once the key was replaced"
    delivered = Split(swarm.charged - before)
    earned = await worth(chain, ["stale"], providers=["stale"]) - began
    assert earned == Split(signed[epoch] * UNIT).reward
    gain = earned - delivered.reward
    loss = puppet_began - await worth(chain, ["puppet"], gateways=["puppet"])
    assert gain <= 0 and loss == 0
    tell("a provider that works on under an old key", gain=gain, loss=loss, bound="0 wei")


async def test_who_is_provider_gateway_and_developer_at_once_loses_what_it_burns(town: Town) -> None:
    swarm, chain, times = town.swarm, town.swarm.chain, 10
    ann_began = await worth(chain, ["ann"], providers=["ann"])
    epoch = await chain.next_epoch()
    assert (await swarm.ask("fair", town.model.name, 100)).status_code == 200
    await swarm.until_vouched("ann", BLOCKS * weighted_tokens(PROMPT_TOKENS, 100), since=epoch)
    own = await swarm.provider("self", town.model, "0:5", patch=GENEROUS.format(times=times))
    mal = await swarm.gateway("mal", patch=OWN_GATEWAY.format(times=times, provider="self"), reserved=0)
    async with chain.client("eve") as client:
        await client.escrow.deposit_and_reserve("mal", 10 * WEI_PER_FUNC)
    swarm.keys["eve@mal"] = await swarm.make_key("mal", "eve")
    everybody: dict[str, Any] = {"people": ["eve", "mal", "self"], "gateways": ["mal"], "providers": ["self"]}
    began = await worth(chain, **everybody)

    assert (await swarm.ask("mal", town.model.name, 100, developer="eve")).status_code == 200
    work = times * BLOCKS * weighted_tokens(PROMPT_TOKENS, 100)
    await swarm.until_vouched("self", work)
    assert await chain.next_epoch() == epoch + 1
    await swarm.event(mal, "post", epoch=epoch)
    await swarm.event(town.fair, "post", epoch=epoch)
    assert (await swarm.ask("mal", town.model.name, 100, developer="eve")).status_code == 200
    await swarm.until_vouched("self", work, since=epoch + 1)
    await chain.next_epoch(2)
    await swarm.event(own, "challenge", epoch=epoch + 1, gateway="mal")
    await chain.next_epoch()
    await swarm.event(own, "claim")
    await swarm.event(mal, "claim_share")
    async with chain.client() as client:
        await settled(client, "self", chain.accounts["self"].address, epoch)
        await settled(client, "ann", chain.accounts["ann"].address, epoch)
        found = await final(client, chain.model_id, epoch)

    fee = Split(times * cost(100))
    total = Split(fee.fee + cost(100))
    assert found.emission == total.emission and 2 * found.emission <= total.burn
    posted = fee.royalty + fee.burn - fee.emission
    omitted = fee.share + fee.burn + fee.royalty + fee.fee - fee.finder
    gain = await worth(chain, **everybody) - began
    assert gain == -posted - omitted
    assert gain + 2 * fee.royalty < 0, "also if it had published the model itself"
    loss = Split(cost(100)).reward - (await worth(chain, ["ann"], providers=["ann"]) - ann_began)
    assert loss == 0
    tell("a provider that pays itself, by a checkpoint", gain=-posted, loss=loss, bound="0 wei")
    tell("a provider that pays itself, by a compensation", gain=-omitted, loss=0, bound="0 wei")
