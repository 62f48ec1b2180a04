"""Registries and settings rule by rule: consent of signers, tokens sent before, whitelists, prices, ratings, bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import pytest

from chain.contract_errors import (
    AutoWhitelistOff,
    ERC20InsufficientAllowance,
    InsufficientBalance,
    InvalidSignature,
    NothingToClaim,
    NotRated,
    NoVotingStake,
    OutOfBounds,
    SignerInUse,
    TooManyProviders,
    TooManyVerifiers,
    Unauthorized,
    UnknownGateway,
    ZeroAddress,
)
from chain.primitives import MAX_UINT256, ZERO_ADDRESS, Address, key_of, word
from chain.vouchers import Domain, SignerConsent
from tests.chain.ledger_world import ALICE, BOB, CREATOR, DEV, GARY, MINIMUM, OWNER, World
from tests.chain.spec.models import Usage

G, A = key_of("g"), key_of("a")


# --- consent ---


@pytest.mark.parametrize(("part", "name", "owner"), [("providers", "a", ALICE), ("gateways", "g", GARY)])
def test_a_stranger_signs_for_nobody_without_its_own_consent(part: str, name: str, owner: Address) -> None:
    world = World()
    registry = getattr(world.ledger, part)
    agreed = SignerConsent(key_of(name), owner, DEV)
    other = world.ledger.providers if part == "gateways" else world.ledger.gateways
    wrong = [
        b"",
        world.signed(registry.domain, agreed, owner),  # not by the signer
        world.signed(other.domain, agreed, DEV),  # for another registry
        world.signed(Domain(2, registry.address), agreed, DEV),  # on another chain
        world.signed(registry.domain, SignerConsent(key_of("x"), owner, DEV), DEV),
        world.signed(registry.domain, SignerConsent(key_of(name), BOB, DEV), DEV),
        world.signed(registry.domain, agreed, DEV)[:-1],
    ]
    for consent in wrong:
        with pytest.raises(InvalidSignature):
            registry.set_signer(world.by(owner), name, DEV, consent)
    registry.set_signer(world.by(owner), name, DEV, world.signed(registry.domain, agreed, DEV))
    assert registry.signer_at(key_of(name), 1) == owner
    assert registry.signer_at(key_of(name), 2) == DEV


@pytest.mark.parametrize(("part", "name", "owner"), [("providers", "a", ALICE), ("gateways", "g", GARY)])
def test_the_owners_own_key_needs_no_consent_and_no_key_is_none(part: str, name: str, owner: Address) -> None:
    world = World()
    registry = getattr(world.ledger, part)
    registry.set_signer(world.by(owner), name, owner, b"")
    with pytest.raises(ZeroAddress):
        registry.set_signer(world.by(owner), name, ZERO_ADDRESS, b"")


def test_a_signer_who_agrees_to_a_second_gateway_still_signs_for_the_first() -> None:
    world = World()
    gateways = world.ledger.gateways
    gateways.register(world.by(BOB), "h", "")
    agreed = SignerConsent(key_of("h"), BOB, GARY)
    with pytest.raises(SignerInUse):
        gateways.set_signer(world.by(BOB), "h", GARY, world.signed(gateways.domain, agreed, GARY))
    with pytest.raises(InvalidSignature):
        gateways.set_signer(world.by(BOB), "h", GARY, b"")


# --- tokens sent to the registry ---


def test_the_guides_two_steps_register_a_gateway() -> None:
    """«Transfer FUNC to GatewayRegistry, then registerAndStake»; nothing is pulled, so nothing need be approved."""
    world = World()
    ledger = world.ledger
    ledger.token.approve(world.by(BOB), ledger.gateways.address, 0)
    ledger.token.transfer(world.by(BOB), ledger.gateways.address, 3000)
    assert ledger.token.sent_to(BOB) == 3000
    ledger.gateways.register_and_stake(world.by(BOB), "h", "", 2000)
    assert ledger.gateway_staking.effective_stake("h") == 2000
    assert ledger.token.sent_to(BOB) == 1000
    assert ledger.gateways.return_sent(world.by(BOB)) == 1000
    with pytest.raises(NothingToClaim):
        ledger.gateways.return_sent(world.by(BOB))
    assert world.healthy()


def test_what_was_sent_counts_for_its_sender_only_and_the_rest_is_pulled() -> None:
    world = World()
    ledger = world.ledger
    ledger.token.transfer(world.by(BOB), ledger.gateways.address, 3000)
    ledger.token.approve(world.by(BOB), DEV, 50)
    ledger.token.transfer_from(world.by(DEV), BOB, ledger.gateways.address, 50)
    assert (ledger.token.sent_to(BOB), ledger.token.sent_to(DEV)) == (3050, 0)
    ledger.token.approve(world.by(DEV), ledger.gateways.address, 1999)
    with pytest.raises(ERC20InsufficientAllowance):
        ledger.gateways.register_and_stake(world.by(DEV), "d", "", 2000)
    before = ledger.token.balance_of(BOB)
    ledger.gateways.register_and_stake(world.by(BOB), "h", "", 4000)
    assert before - ledger.token.balance_of(BOB) == 950
    assert ledger.token.sent_to(BOB) == 0
    with pytest.raises(Unauthorized):
        ledger.token.take_sent(world.by(BOB), BOB, 0)
    with pytest.raises(InsufficientBalance):
        ledger.token.take_sent(world.by(ledger.gateways.address), BOB, 1)
    assert world.healthy()


# --- whitelists ---


def test_nobodys_stake_is_locked_while_whitelisting_is_by_hand() -> None:
    world = World()
    ledger = world.ledger
    for part in (ledger.providers, ledger.gateways):
        part.set_auto_whitelist(world.by(OWNER), False)
    with pytest.raises(AutoWhitelistOff):
        ledger.providers.register_and_stake(world.by(BOB), "late", 1, "{}")
    with pytest.raises(AutoWhitelistOff):
        ledger.gateways.register_and_stake(world.by(BOB), "late", "", 0)
    ledger.providers.register(world.by(BOB), "late", 1, "{}")
    ledger.router.pool(1).stake_for_provider(world.by(BOB), "late")
    assert not ledger.providers.is_active("late")
    ledger.providers.set_whitelisted(world.by(OWNER), "late", True)
    assert ledger.providers.is_active("late")


def test_a_jail_takes_eligibility_and_not_activity() -> None:
    world = World()
    ledger = world.ledger
    ledger.slashing.jail_provider(A, 1)
    assert ledger.providers.is_active("a")
    assert not ledger.providers.is_eligible("a", world.block)
    world.go_to(2)
    assert ledger.providers.is_eligible("a", world.block)


def test_an_owner_has_a_hundred_providers_and_there_are_sixty_four_verifiers_at_most() -> None:
    world = World()
    for number in range(99):
        world.ledger.providers.register(world.by(BOB), f"b{number}", 1, "{}")
    with pytest.raises(TooManyProviders):
        world.ledger.providers.register(world.by(BOB), "b99", 1, "{}")
    for number in range(64):
        world.ledger.disputes.set_verifier(world.by(OWNER), word(number + 1)[12:], True)
    with pytest.raises(TooManyVerifiers):
        world.ledger.disputes.set_verifier(world.by(OWNER), word(65)[12:], True)


# --- models ---


def test_a_price_binds_after_two_epochs_of_notice() -> None:
    world = World()
    models = world.ledger.models
    world.go_to(3)
    models.update_price(world.by(CREATOR), 1, 7)
    models.update_price(world.by(CREATOR), 1, 300)
    world.go_to(4)
    models.update_price(world.by(CREATOR), 1, 900)
    assert [models.price_at(1, epoch) for epoch in range(7)] == [0, 100, 100, 100, 100, 300, 900]


def test_a_rating_weighs_no_more_than_was_burned_for_the_model_nor_than_the_stake() -> None:
    world = World()
    models, staking = world.ledger.models, world.ledger.gateway_staking
    with pytest.raises(NoVotingStake):
        models.rate_model(world.by(GARY), 1, "g", 5)
    with pytest.raises(UnknownGateway):
        models.rate_model(world.by(ALICE), 1, "a", 5)
    with pytest.raises(Unauthorized):
        models.rate_model(world.by(BOB), 1, "g", 5)
    world.go_to(2)
    world.post(401)  # 10,025 wei, of which 501 are burned, at least 251 of them for good
    assert models.spent_by(1, G) == 251
    models.rate_model(world.by(GARY), 1, "g", 4)
    assert models.rating(1) == (4 * 251, 251)
    staking.fund_lines(world.by(GARY), "g", ["a"], [staking.effective_stake("g") - MINIMUM])
    staking.set_min_gateway_stake(world.by(OWNER), 500)
    staking.fund_lines(world.by(GARY), "g", ["a"], [500])
    staking.set_min_gateway_stake(world.by(OWNER), 250)
    staking.fund_lines(world.by(GARY), "g", ["a"], [250])
    models.refresh_rating(world.by(BOB), 1, "g")
    assert models.rating(1) == (4 * 250, 250)
    models.rate_model(world.by(GARY), 1, "g", 1)
    assert models.rating(1) == (250, 250)
    with pytest.raises(NotRated):
        models.refresh_rating(world.by(BOB), 1, "nobody")


def test_usage_counts_what_was_burned_for_good_and_boosts_only_by_what_they_burn() -> None:
    world = World()
    ledger = world.ledger
    ledger.token.approve(world.by(DEV), ledger.reward_pool.address, MAX_UINT256)
    supply = ledger.token.total_supply
    ledger.reward_pool.boost(world.by(DEV), 1, 1, 1019)
    assert ledger.models.usage(1) == Usage(burned=50)
    assert ledger.reward_pool.boost_of(1, 1) == 969
    assert supply - ledger.token.total_supply == 50
    world.go_to(2)
    world.post(401)
    world.go_to(5)
    ledger.settlement.finalize(world.by(DEV), 1, 1)
    assert ledger.models.usage(1) == Usage(units=401, fees=10_025, burned=50 + 251, epochs=1)
    assert ledger.router.pool(1).pot(1).amount == 7520 + 250 + 969
    assert world.healthy()


# --- what the owner can set ---


@pytest.mark.parametrize(
    ("setter", "low", "high"),
    [
        (lambda w: (w.ledger.epochs, "set_epoch_length"), 5, 20),
        (lambda w: (w.ledger.epochs, "set_min_epochs_locked"), 1, 4),
        (lambda w: (w.ledger.epochs, "set_epoch_reward_delay"), 4, 4),
        (lambda w: (w.ledger.epochs, "set_wind_down_delay"), 4, 8),
        (lambda w: (w.ledger.gateway_staking, "set_min_gateway_stake"), 500, 2000),
    ],
)
def test_the_owner_moves_a_setting_by_half_at_most(
    setter: Callable[[World], tuple[object, str]], low: int, high: int
) -> None:
    for value, allowed in ((low - 1, False), (low, True), (high, True), (high + 1, False)):
        world = World()
        part, name = setter(world)
        if allowed:
            getattr(part, name)(world.by(OWNER), value)
            continue
        with pytest.raises(OutOfBounds) as raised:
            getattr(part, name)(world.by(OWNER), value)
        assert raised.value.arguments == {"value": value, "min": low, "max": high}


def test_no_number_of_changes_takes_a_setting_beyond_its_last_bound() -> None:
    world = World()
    epochs, by = world.ledger.epochs, world.by(OWNER)
    for setter, last in ((epochs.set_wind_down_delay, 64), (epochs.set_epoch_reward_delay, 64)):
        value = 4
        while value < last:
            value = min(2 * value, last)
            setter(by, value)
        with pytest.raises(OutOfBounds):
            setter(by, last + 1)
    length = 10
    while length < 100_000:
        length = min(2 * length, 100_000)
        epochs.set_epoch_length(world.by(OWNER), length)
        world.go_to(world.epoch + 1)
    with pytest.raises(OutOfBounds) as raised:
        epochs.set_epoch_length(world.by(OWNER), 100_001)
    assert raised.value.arguments == {"value": 100_001, "min": 50_000, "max": 100_000}


@pytest.mark.parametrize(
    ("position", "low", "high"),
    [(0, 0, 2000), (1, 100, 2000), (2, 5000, 20_000), (3, 1000, 10_000), (4, 0, 5000), (5, 4, 1000), (6, 100, 5000)],
)
def test_parameters_of_settlement_are_bounded_and_hold_from_the_next_epoch(position: int, low: int, high: int) -> None:
    world = World()
    settlement = world.ledger.settlement
    usual = [1000, 500, 10_000, 5000, 1000, 16, 1000]
    for value in (low, high):
        changed = [*usual[:position], value, *usual[position + 1 :]]
        settlement.set_parameters(world.by(OWNER), *changed)
        assert settlement.parameters_at(1).bond_bps == 1000
        assert astuple(settlement.parameters_at(2)) == tuple(changed)
    for value in (low - 1, high + 1):
        with pytest.raises(OutOfBounds):
            settlement.set_parameters(world.by(OWNER), *usual[:position], value, *usual[position + 1 :])
