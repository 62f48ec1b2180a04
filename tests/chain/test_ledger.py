"""The ledger rule by rule, with numbers worked out by hand; random sequences are in `test_machines.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chain.contract_errors import (
    AlreadyProven,
    EnforcedPause,
    EpochNotReady,
    ERC20InsufficientAllowance,
    ERC20InsufficientBalance,
    GatewayNotWoundDown,
    InvalidId,
    InvalidProof,
    MetadataTooLong,
    NothingToClaim,
    PostingWindowClosed,
    RewardsNotReady,
    StakeLocked,
    WindDownNotOver,
    WrongFees,
    ZeroAmount,
)
from chain.errors import ContractError
from chain.merkle import ContributionTree, Leaf
from chain.primitives import key_of, word
from tests.chain.ledger_world import ALICE, BOB, CREATOR, DEV, GARY, OWNER, World
from tests.chain.spec.models import Usage


def test_an_epoch_pays_everybody_what_the_rules_say() -> None:
    world = World()
    world.go_to(2)
    tree = world.post(301, 100)
    ledger = world.ledger
    # 401 units × 100 wei ÷ 4 blocks = 10025; share 1002, burn 501, royalty 1002, net 7520; emission = half the burn.
    sums = ledger.settlement.model_epoch(1, 1)
    assert (sums.units, sums.fees, sums.shares) == (401, 10_025, 1002)
    assert ledger.settlement.emission_weight(1) == 250
    assert ledger.models.spent_by(1, key_of("g")) == 251
    assert ledger.gateway_staking.effective_stake("g") == 50_000 - 10_025
    world.go_to(5)
    world.prove(tree, "a", 301)
    assert ledger.router.pool(1).pot(1).amount == 7520 + 250
    assert ledger.settlement.royalty_of(1) == 1002
    world.prove(tree, "b", 100)
    # 7770 × 301 ÷ 401 = 5832.34…, 7770 × 100 ÷ 401 = 1937.65…; one wei of dust waits for the next pot.
    assert ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 1, 1) == 5832
    assert ledger.router.pool(1).claim_rewards(world.by(BOB), "b", 1, 1) == 1937
    assert ledger.router.pool(1).carried == 1
    assert ledger.gateway_staking.claim_rewards(world.by(GARY), "g", 1, 1) == 1002
    assert ledger.settlement.claim_royalty(world.by(CREATOR), 1) == 1002
    assert ledger.models.usage(1) == Usage(units=401, fees=10_025, burned=251, epochs=1)
    assert world.healthy()


def test_who_pays_himself_loses_half_the_burn_however_large_the_budget() -> None:
    world = World(budget=10**15)
    ledger = world.ledger
    before = ledger.token.total_supply
    world.go_to(2)
    tree = world.post(1000)
    world.go_to(5)
    world.prove(tree, "a", 1000)
    earned = ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 1, 1)
    earned += ledger.gateway_staking.claim_rewards(world.by(GARY), "g", 1, 1)
    earned += ledger.settlement.claim_royalty(world.by(CREATOR), 1)
    assert ledger.models.usage(1).fees == 25_000  # everything was his, and half of the burn of 1250 did not come back
    assert earned == 25_000 - 625
    assert ledger.token.total_supply == before - 625


def test_rewards_open_at_the_boundary_block_and_not_one_earlier() -> None:
    world = World()
    world.go_to(2)
    tree = world.post(10, 10)
    world.go_to(4, last_block=True)
    with pytest.raises(EpochNotReady):
        world.prove(tree, "a", 10)
    with pytest.raises(RewardsNotReady):
        world.ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 1, 1)
    world.block += 1
    world.prove(tree, "a", 10)
    assert world.ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 1, 1) > 0
    with pytest.raises(NothingToClaim):
        world.ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 1, 1)
    with pytest.raises(AlreadyProven):
        world.prove(tree, "a", 10)


def test_a_checkpoint_is_posted_in_the_next_epoch_with_exact_fees() -> None:
    world = World()
    root, pay = word(9), (bytes(32),)
    post = world.ledger.settlement.post_checkpoint
    world.go_to(1, last_block=True)
    with pytest.raises(PostingWindowClosed):
        post(world.by(GARY), 1, 1, root, 4, 100, *pay)
    world.go_to(3)
    with pytest.raises(PostingWindowClosed):
        post(world.by(GARY), 1, 1, root, 4, 100, *pay)
    with pytest.raises(WrongFees) as raised:
        post(world.by(GARY), 1, 2, root, 5, 124, *pay)
    assert raised.value.arguments == {"fees": 124, "expected": 125}
    post(world.by(GARY), 1, 2, root, 5, 125, *pay)


def test_a_provider_unstakes_at_its_unlock_epoch_and_not_one_block_earlier() -> None:
    world = World()
    pool = world.ledger.router.pool(1)
    world.go_to(2, last_block=True)
    with pytest.raises(StakeLocked):
        pool.unstake_provider(world.by(ALICE), "a")
    world.block += 1
    pool.unstake_provider(world.by(ALICE), "a")
    assert world.ledger.token.balance_of(ALICE) == 10**9
    assert not world.ledger.providers.is_active("a")


def test_a_gateway_winds_down_waits_and_then_leaves() -> None:
    world = World()
    staking = world.ledger.gateway_staking
    world.go_to(3)
    with pytest.raises(GatewayNotWoundDown):
        staking.unstake_for_gateway(world.by(GARY), "g")
    staking.wind_down_gateways(world.by(GARY), ["g"])
    assert world.ledger.gateways.is_active("g")
    assert not world.ledger.gateways.is_eligible("g", world.block)
    world.go_to(6, last_block=True)
    with pytest.raises(WindDownNotOver):
        staking.unstake_for_gateway(world.by(GARY), "g")
    world.block += 1
    staking.unstake_for_gateway(world.by(GARY), "g")
    assert world.ledger.token.balance_of(GARY) == 10**9


def test_under_a_total_that_its_leaves_exceed_no_leaf_is_proven() -> None:
    world = World()
    world.go_to(2)
    tree = ContributionTree(key_of("g"), 1, 1, [Leaf(key_of("a"), 70), Leaf(key_of("b"), 40)])
    world.ledger.settlement.post_checkpoint(world.by(GARY), 1, 1, tree.root, 100, 2500, bytes(32))
    world.go_to(5)
    for name, units in (("a", 70), ("b", 40), ("b", 30)):
        with pytest.raises(InvalidProof):
            world.prove(tree, name, units)


def test_an_epoch_without_work_carries_its_boost_forward() -> None:
    world = World()
    ledger = world.ledger
    ledger.token.approve(world.by(DEV), ledger.reward_pool.address, 77)
    ledger.reward_pool.boost(world.by(DEV), 1, 1, 77)
    world.go_to(5)
    ledger.settlement.finalize(world.by(DEV), 1, 1)
    assert ledger.models.usage(1).burned == 3  # 5 % of a boost is burned, like of any fee
    assert ledger.router.pool(1).carried == 74
    assert ledger.router.pool(1).pot(1).amount == 0


def test_a_failed_call_leaves_nothing_behind() -> None:
    world = World()
    ledger = world.ledger
    ledger.token.approve(world.by(BOB), ledger.providers.address, 0)
    with pytest.raises(ERC20InsufficientAllowance):
        ledger.providers.register_and_stake(world.by(BOB), "late", 1, "{}")
    assert ledger.providers.by_key(key_of("late")) is None
    assert ledger.providers.providers_of(BOB) == ("b",)
    with pytest.raises(ERC20InsufficientBalance):
        ledger.gateway_staking.stake_for_gateway(world.by(GARY), "g", 10**10)
    assert ledger.gateway_staking.effective_stake("g") == 50_000


def test_a_cluster_claim_tolerates_and_names_what_fails() -> None:
    world = World()
    world.ledger.providers.register_and_stake(world.by(ALICE), "a2", 1, "{}")
    world.go_to(2)
    tree = world.post(10, 10)
    world.go_to(5)
    world.prove(tree, "a", 10)
    paid, failed = world.ledger.providers.claim_rewards_cluster(world.by(ALICE), 1, 1)
    assert paid > 0
    assert failed == ("a2",)


@pytest.mark.parametrize(("length", "refused"), [(0, True), (1, False), (64, False), (65, True)])
def test_an_id_has_one_to_sixty_four_bytes(length: int, refused: bool) -> None:
    world = World()
    if not refused:
        world.ledger.gateways.register(world.by(BOB), "i" * length, "")
        return
    with pytest.raises(InvalidId):
        world.ledger.gateways.register(world.by(BOB), "i" * length, "")


def test_metadata_is_counted_in_bytes_and_has_at_most_1024() -> None:
    world = World()
    world.ledger.gateways.register(world.by(BOB), "x", "é" * 512)
    with pytest.raises(MetadataTooLong):
        world.ledger.gateways.update_metadata(world.by(BOB), "x", "é" * 513)


def test_a_pause_stops_new_money_but_neither_a_withdrawal_nor_a_deadline() -> None:
    world = World()
    ledger = world.ledger
    ledger.escrow.deposit(world.by(DEV), 700)
    ledger.escrow.reserve(world.by(DEV), "g", 500)
    ledger.escrow.thaw(world.by(DEV), "g", 500)
    for part in (ledger.escrow, ledger.gateway_staking, ledger.router, ledger.providers, ledger.gateways):
        part.pause(world.by(OWNER))
    with pytest.raises(EnforcedPause):
        ledger.escrow.deposit(world.by(DEV), 1)
    with pytest.raises(EnforcedPause):
        ledger.escrow.reserve(world.by(DEV), "g", 1)
    ledger.escrow.withdraw(world.by(DEV), 200)
    with pytest.raises(EnforcedPause):
        ledger.gateway_staking.stake_for_gateway(world.by(GARY), "g", 1)
    world.go_to(2)
    tree = world.post(10)
    ledger.gateway_staking.wind_down_gateways(world.by(GARY), ["g"])
    world.go_to(6)
    assert ledger.escrow.withdraw_reserved(world.by(DEV), "g") == 500
    ledger.gateway_staking.unstake_for_gateway(world.by(GARY), "g")
    world.prove(tree, "a", 10)
    ledger.router.pool(1).claim_rewards(world.by(ALICE), "a", 1, 1)
    ledger.router.pool(1).unstake_provider(world.by(ALICE), "a")


def test_a_jail_of_a_gateway_does_not_touch_a_provider_of_the_same_id() -> None:
    world = World()
    world.ledger.providers.register_and_stake(world.by(ALICE), "g", 1, "{}")
    world.ledger.slashing.jail_gateway(key_of("g"), 100)
    assert not world.ledger.gateways.is_eligible("g", world.block)
    assert world.ledger.providers.is_eligible("g", world.block)


def test_a_new_epoch_length_never_moves_an_epoch_that_has_begun() -> None:
    world = World()
    epochs = world.ledger.epochs
    world.block = 15
    epochs.set_epoch_length(world.by(OWNER), 5)
    epochs.set_epoch_length(world.by(OWNER), 7)
    assert [epochs.epoch_start_block(e) for e in range(1, 6)] == [1, 11, 21, 28, 35]
    assert [epochs.current_epoch(block) for block in (1, 10, 11, 20, 21, 27, 28)] == [1, 1, 2, 2, 3, 3, 4]


def test_zero_amounts_are_refused() -> None:
    world = World()
    ledger, tx = world.ledger, world.by(GARY)
    calls: tuple[Callable[[], object], ...] = (
        lambda: ledger.escrow.deposit(tx, 0),
        lambda: ledger.escrow.withdraw(tx, 0),
        lambda: ledger.escrow.reserve(tx, "g", 0),
        lambda: ledger.escrow.deposit_and_reserve(tx, "g", 0),
        lambda: ledger.escrow.thaw(tx, "g", 0),
        lambda: ledger.escrow.thaw_credit(tx, "g", 0),
        lambda: ledger.gateway_staking.fund_lines(tx, "g", ["a"], [0]),
        lambda: ledger.gateway_staking.thaw_line(tx, "g", "a", 0),
        lambda: ledger.escrow.top_up_credit(tx, "g", 0),
        lambda: ledger.gateway_staking.stake_for_gateway(tx, "g", 0),
        lambda: ledger.gateway_staking.wind_down_gateways(tx, []),
        lambda: ledger.reward_pool.boost(tx, 1, 1, 0),
    )
    for call in calls:
        with pytest.raises(ZeroAmount):
            call()


def test_every_error_of_the_ledger_is_a_custom_error_of_the_contracts() -> None:
    world = World()
    with pytest.raises(ContractError) as raised:
        world.ledger.models.enable(world.by(ALICE), 9)
    assert type(raised.value).__name__ == "UnknownModel"
    assert raised.value.arguments == {"model_id": 9}
