"""Claims for many providers and epochs are cut so that each fits a block, and nothing is left out."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.client.calls.providers import (
    CLUSTER_GAS,
    GAS_A_CLAIM,
    GAS_A_PROVIDER,
    MOST_EPOCHS,
    cluster_ranges,
)
from chain.contract_errors import NothingToClaim
from chain.errors import InvalidArgument
from chain.leaves import CheckpointLeaves
from tests.chain.shells.steps import FUNC, METADATA, publish, work
from tests.chain.shells.world import Net

PROVIDERS = 30
EPOCHS = 512


@given(st.integers(0, 100), st.integers(1, 10**6), st.integers(0, 5000))
def test_the_parts_cover_every_epoch_once_and_each_fits(providers: int, first: int, more: int) -> None:
    parts = cluster_ranges(providers, first, first + more)
    assert parts[0][0] == first and parts[-1][1] == first + more
    assert all(earlier[1] + 1 == later[0] for earlier, later in pairwise(parts))
    for begin, end in parts:
        count = end - begin + 1
        assert 1 <= count <= MOST_EPOCHS
        assert providers * (GAS_A_PROVIDER + count * GAS_A_CLAIM) <= CLUSTER_GAS


async def test_a_claim_of_one_epoch_costs_no_more_than_is_reckoned(net: Net) -> None:
    async with net.client(1) as client, net.client(2) as gateway:
        model = await publish(client)
        owned = ("p", "q", "r")
        for name in owned:
            await client.providers.register_and_stake(name, model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        worked = [await work(net, gateway, "g", model, dict.fromkeys(owned, 800)) for _ in range(6)]
        last = worked[-1][0]
        await net.to_epoch(gateway, last + 4)
        for epoch, leaves in worked:
            for name in owned:
                await gateway.settlement.prove_contribution_for("g", name, epoch, *leaves.proof(name))
        first = worked[0][0]
        claim = client.providers.claim_rewards_cluster
        # What a call may use before anything is refunded is what must fit a block: that is what is estimated.
        all_of_it = (await claim(first, last).dry_run()).gas
        least = (await claim(last, last).dry_run()).gas
        per_claim = (all_of_it - least) / (len(owned) * (last - first))
        assert 2_000 < per_claim < GAS_A_CLAIM
        assert least < 100_000 + len(owned) * (GAS_A_PROVIDER + GAS_A_CLAIM)


async def test_thirty_providers_claim_512_epochs_in_calls_that_fit_a_block(net: Net) -> None:
    async with net.client(1) as client, net.client(2) as gateway:
        model = await publish(client)
        owned = [f"p{number}" for number in range(PROVIDERS)]
        for name in owned:
            await client.providers.register_and_stake(name, model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 1000 * FUNC)
        early, leaves = await work(net, gateway, "g", model, dict.fromkeys(owned[:5], 8_000))
        await net.to_epoch(gateway, EPOCHS)
        late, more = await work(net, gateway, "g", model, dict.fromkeys(owned[3:9], 8_000))
        await net.to_epoch(gateway, late + 4)
        for epoch, shown in ((early, leaves), (late, more)):
            for name in shown.units:
                await gateway.settlement.prove_contribution_for("g", name, epoch, *shown.proof(name))
        first = late - EPOCHS + 1
        assert first <= early
        for begin, end in cluster_ranges(PROVIDERS, first, late):
            assert (await client.providers.claim_rewards_cluster(begin, end).dry_run()).gas < CLUSTER_GAS
        # Only the two parts in which something was earned are sent.
        actions = await client.providers.cluster_claims(first, late)
        assert len(actions) == 2 < len(cluster_ranges(PROVIDERS, first, late))
        before = await client.token.balance()
        results = [await action for action in actions]
        assert all(result.gas_used < CLUSTER_GAS for result in results)
        claimed = client.providers.cluster_claim(*results)
        assert await client.token.balance() == before + claimed.amount > before
        # Who earned in one part and not in the other has not failed.
        assert set(claimed.failed) == set(owned[9:])
        assert all(isinstance(error, NothingToClaim) for error in claimed.failed.values())
        # Nothing is left: one call says so for all.
        (again,) = await client.providers.cluster_claims(first, late)
        nothing = client.providers.cluster_claim(await again)
        assert nothing.amount == 0 and set(nothing.failed) == set(owned)


async def test_gateways_that_posted_dust_before_make_no_proof_dearer(net: Net) -> None:
    async with net.client(1) as owner, AsyncExitStack() as stack:
        model = await publish(owner)
        for name in ("p", "q"):
            await owner.providers.register_and_stake(name, model, METADATA)
        gateways = []
        for number in range(2, 9):
            gateway = await stack.enter_async_context(net.client(number))
            await gateway.gateways.register_and_stake(f"g{number}", "", 200 * FUNC)
            gateways.append((f"g{number}", gateway))
        epoch = await net.next_epoch(owner)
        await net.to_epoch(owner, epoch + 1)
        trees = {}
        for name, gateway in gateways:
            trees[name] = CheckpointLeaves(name, model, epoch, {"p": 8, "q": 8})
            await gateway.settlement.post_tree(trees[name].tree(), trees[name].data_hash())
        await net.to_epoch(owner, epoch + 4)
        first, last = gateways[0][0], gateways[-1][0]
        prove = owner.settlement.prove_contribution_for
        await prove(first, "p", epoch, *trees[first].proof("p"))  # which also makes the epoch's pot
        costs = [(await prove(name, "q", epoch, *trees[name].proof("q")).dry_run()).gas for name in (first, last)]
        assert abs(costs[0] - costs[1]) < 1_000


async def test_a_range_that_is_none_is_refused(net: Net) -> None:
    async with net.client(1) as client:
        for first, last in ((0, 5), (5, 4), (1, 2**64)):
            with pytest.raises(InvalidArgument):
                await client.providers.cluster_claims(first, last)
