"""A short search with the rules of today, and every old rule found by the script that a longer one cut down."""

from __future__ import annotations

from random import Random

import pytest

from tests.profit.game import GATEWAYS, PROVIDERS, Game
from tests.profit.old_rules import OLD_RULES
from tests.profit.scripts import SCRIPTS
from tests.profit.search import Search, changed, play, random_moves, shrink, told
from tests.profit.world import PRICE, account

TRADE = [("next_epoch", 0, 0, 0), *(("trade", a, b, 5) for a in range(4) for b in range(2))]


def search(name: str, seed: int) -> Search:
    rule = OLD_RULES[name]
    return Search(rule.game, seed, without=rule.without if rule.mixed else None)


@pytest.mark.parametrize("seed", [11, 12])
def test_a_search_finds_no_profit_under_the_rules_of_today(seed: int) -> None:
    finding = Search(Game, seed).run(150)
    assert finding is None, told(finding)


@pytest.mark.parametrize("name", OLD_RULES)
def test_under_an_old_rule_somebody_is_robbed_by_what_is_harmless_today(name: str) -> None:
    assert search(name, 0).judge(SCRIPTS[name]) is not None
    assert not play(Game(), SCRIPTS[name]).found


@pytest.mark.parametrize(
    "name", ["shared-deposit", "blind-collector", "frozen-claims", "overdraw-in-running-epoch", "emission-equals-burn"]
)
def test_a_short_search_finds_an_old_rule_by_itself(name: str) -> None:
    by = search(name, 0)
    finding = by.run(60)
    assert finding is not None
    cut = shrink(by.judge, finding, budget=40)
    assert by.judge(cut.moves) == cut.score
    assert len(cut.moves) < len(finding.moves)


def test_honest_parties_that_trade_among_themselves_get_what_is_fair() -> None:
    game = Game()
    score = play(game, TRADE * 3)
    assert not score.found, score
    assert sum(each.tokens for each in game.world.work) > 500
    assert all(game.value(name) > game.before[name] for name in (*GATEWAYS, *PROVIDERS, "cora"))
    assert score.taken == 0


def test_restarts_of_honest_processes_cost_nobody_anything_among_themselves() -> None:
    restarts = [("restart", number, 0, 0) for number in range(4)]
    score = play(Game(), [*TRADE, *restarts, *TRADE, *restarts, *TRADE])
    assert score.taken == 0


def test_a_theft_is_seen_on_both_sides() -> None:
    game = Game()
    game.world.do("token", "transfer", "gwen", account("mal0").address, 100 * PRICE)
    score = game.score()
    assert score.gain > 99 * PRICE
    assert score.losses["gwen"] > 99 * PRICE


def test_a_search_is_the_same_for_the_same_seed() -> None:
    first, second = Search(Game, 3), Search(Game, 3)
    first.run(8)
    second.run(8)
    assert first.elite == second.elite


def test_changed_moves_keep_their_number() -> None:
    rng = Random(1)
    moves = random_moves(rng, 60)
    for _ in range(200):
        moves = changed(rng, moves, 60)
        assert len(moves) == 60
        assert all(0 <= number < 96 for _, *numbers in moves for number in numbers)
