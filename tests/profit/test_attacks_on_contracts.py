"""Attacks on the first release's money, played against today's software on the ledger and the compiled contracts.

Both agree on every call, nobody gains by them, and nobody honest loses more than was stated.
"""

from __future__ import annotations

from random import Random

import pytest

from chain.contract_errors import AutoWhitelistOff, ModelNameTaken
from chain.primitives import MAX_UINT96, key_of
from tests.profit.coalition import Coalition
from tests.profit.game import MODEL, Game
from tests.profit.moves import play_move
from tests.profit.scripts import SCRIPTS
from tests.profit.search import play, random_moves
from tests.profit.twin import TwinWorld
from tests.profit.world import BLOCKS, MIN_STAKE, PRICE, STAKE


def both() -> tuple[Game, Coalition]:
    game = Game(new_world=TwinWorld)
    return game, Coalition(game)


def ends_well(game: Game) -> None:
    """When all is over, nobody is robbed, on either chain."""
    game.unwind()
    score = game.score()
    assert not score.found, score
    assert isinstance(game.world, TwinWorld)
    assert game.world.tokens_agree()


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_robbed_an_old_rule_is_harmless_on_the_contracts(name: str) -> None:
    game = Game(new_world=TwinWorld)
    assert not play(game, SCRIPTS[name]).found
    assert isinstance(game.world, TwinWorld)
    assert game.world.tokens_agree()


def test_random_moves_come_to_the_same_on_ledger_and_contracts() -> None:
    game, coalition = both()
    for move in random_moves(Random(1), 60):
        play_move(coalition, move)
    ends_well(game)


def test_work_of_today_is_not_claimed_at_the_price_of_tomorrow() -> None:
    """A creator raises the price a thousandfold, and its provider claims its work in the epoch that pays that."""
    game, coalition = both()
    coalition.publish(2, 0, 0)
    coalition.become_provider(0, 0, 0)
    coalition.reprice(3, 0, 0)
    gwen, model_id = game.gateways["gwen"], game.models["mp0"]
    assert game.serve("dan", "gwen", "mp0", model_id, 10) == 10
    for later in (1, 2):
        assert gwen.receipt("mp0", model_id, game.world.epoch + later, 10 * BLOCKS) is None
    game.advance(game.world.start_of(4))
    assert game.world.ledger.models.price_at(model_id, 4) == 1_000 * PRICE
    late = gwen.receipt("mp0", model_id, 4, 10 * BLOCKS)
    assert late is None or game.world.price(model_id, 4).fee(late) <= 10 * PRICE
    ends_well(game)


def test_a_restarted_gateway_takes_no_providers_word() -> None:
    game, coalition = both()
    coalition.become_provider(0, 1, 0)
    gwen = game.gateways["gwen"]
    for _ in range(3):
        game.serve("dan", "gwen", "mp0", MODEL, 10)
        gwen.restart()
        units = gwen.receipt("mp0", MODEL, game.world.epoch, 1 << 20)
        assert units is None or units <= 30 * BLOCKS
    ends_well(game)


def test_a_deposit_does_not_leave_past_the_gateway_that_serves() -> None:
    """A developer is served on a promise, and pays a gateway of its own with the same money, in one block."""
    game, coalition = both()
    world = game.world
    world.do("escrow", "deposit_and_reserve", "mal0", "gwen", 500 * PRICE)
    assert game.gateways["gwen"].pay("mal0", 500 * PRICE)
    coalition.become_provider(0, 1, 0)
    assert game.serve("mal0", "gwen", "mp0", MODEL, 500) == 500
    coalition.claim_units(0, 0, 0)
    game.advance(world.start_of(2) - 1)
    world.do("gateways", "register", "mal0", "mg0", "")
    for gateway in ("mg0", "gwen"):
        world.tries("escrow", "thaw", "mal0", gateway, 500 * PRICE)
        world.tries("escrow", "withdraw_reserved", "mal0", gateway)
    voucher, signature = world.payment("mal0", "mal0", "mg0", MAX_UINT96)
    assert not world.tries("escrow", "redeem", "mal0", voucher, signature)
    ends_well(game)


def test_no_work_is_done_for_vouchers_that_nothing_stands_behind() -> None:
    """A gateway with little stake buys on vouchers, and redeems its developers' money once they cannot be shown."""
    game, coalition = both()
    world = game.world
    coalition.become_gateway(0, 2, 0)
    world.do("escrow", "deposit_and_reserve", "mal1", "mg0", STAKE)
    done = 0
    for _ in range(40):
        done += game.serve("mal1", "mg0", "pia", MODEL, 10)
        coalition.sign(0, 0, 0)
    assert done <= 20  # the credit, and what the first voucher paid for
    game.advance(world.start_of(7))
    voucher, signature = world.payment("mal1", "mal1", "mg0", STAKE)
    world.do("escrow", "redeem", "mal0", voucher, signature)
    coalition.leave(0, 0, 0)
    ends_well(game)


def test_an_open_challenge_holds_up_nobodys_claims() -> None:
    """A provider of the coalition asks its own gateway for a leaf, and has it never decided."""
    game, coalition = both()
    world = game.world
    for _ in range(3):
        game.serve("dan", "gwen", "pia", MODEL, 20)
    coalition.become_gateway(0, 4, 0)
    coalition.become_provider(0, 1, 0)
    game.advance(world.start_of(2) + 1)
    assert world.post("mal0", "mg0", MODEL, 1, [("mp0", BLOCKS)], shown=False)
    voucher = world.contribution("mal0", "mg0", "mp0", MODEL, 1, 100 * BLOCKS)
    world.do("settlement", "open_omission_challenge", "mal3", *voucher)
    before = world.wealth(["pia"])
    game.advance(world.start_of(6))
    assert world.wealth(["pia"]) > before
    ends_well(game)


def test_a_gateway_below_the_least_stake_gets_no_credit() -> None:
    game, _ = both()
    for amount in (1, MIN_STAKE - 1):
        game.world.tries("gateways", "register_and_stake", "mal0", "mg0", "", 1)
        game.world.tries("gateway_staking", "stake_for_gateway", "mal0", "mg0", amount - 1)
        assert not game.serve("mal1", "mg0", "pia", MODEL, 1)
    ends_well(game)


def test_a_models_name_is_its_creators_and_another_price_under_it_is_nobodys() -> None:
    """A stranger's model is cheap to publish; what is staked for it is not staked for the name that it wants."""
    game, _ = both()
    world = game.world
    known = world.ledger.models.model(MODEL)
    with pytest.raises(ModelNameTaken):
        world.create_model("mal0", known.name, 1_000 * PRICE, 5_000)
    other = world.create_model("mal0", known.name + " ", 1_000 * PRICE, 5_000)
    assert world.ledger.models.model_id_of(known.name) == MODEL != other
    world.do("providers", "register_and_stake", "mal1", "mp1", other, "{}")
    provider = world.ledger.providers.by_key(key_of("mp1"))
    assert provider is not None and provider.model_id == other
    ends_well(game)


def test_what_was_sent_to_the_registry_is_staked_for_its_sender_or_comes_back() -> None:
    game, _ = both()
    world = game.world
    world.do("token", "transfer", "mal0", world.ledger.gateways.address, STAKE)
    before = world.wealth(["mal0"])
    assert not world.tries("gateways", "return_sent", "mal1")
    world.do("gateways", "register_and_stake", "mal0", "mg0", "", STAKE - PRICE)
    assert world.wealth(["mal0"]) == before
    world.do("gateways", "return_sent", "mal0")
    assert world.wealth(["mal0"]) == before + PRICE
    assert world.ledger.token.balance_of(world.ledger.gateways.address) == 0
    ends_well(game)


def test_nothing_is_locked_of_a_provider_that_cannot_be_active() -> None:
    game, _ = both()
    world = game.world
    world.do("providers", "set_auto_whitelist", None, False)
    before = world.wealth(["mal3"])
    with pytest.raises(AutoWhitelistOff):
        world.do("providers", "register_and_stake", "mal3", "mp0", MODEL, "{}")
    assert world.wealth(["mal3"]) == before
    assert world.ledger.providers.by_key(key_of("mp0")) is None
    ends_well(game)
