"""The same moves as a state machine of Hypothesis, which goes where most is taken and shrinks what it finds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.profit.coalition import Coalition
from tests.profit.game import Game
from tests.profit.moves import MOVES, play_move
from tests.profit.search import NUMBERS
from tests.profit.world import PRICE

numbers = st.integers(0, NUMBERS - 1)


class ProfitMachine(RuleBasedStateMachine):
    """Each rule is a move; at the end everybody takes what is theirs, and it is counted who gained."""

    def __init__(self) -> None:
        super().__init__()
        self.game = Game()
        self.coalition = Coalition(self.game)

    @rule(name=st.sampled_from(sorted(MOVES)), a=numbers, b=numbers, c=numbers)
    def move(self, name: str, a: int, b: int, c: int) -> None:
        play_move(self.coalition, (name, a, b, c))

    @invariant()
    def no_contract_holds_less_than_it_owes(self) -> None:
        assert not self.game.world.ledger.broken_invariants()

    def teardown(self) -> None:
        self.game.unwind()
        score = self.game.score()
        target(score.taken / PRICE, label="taken before the stated risks, in tokens")
        assert not score.found, score


TestProfit = ProfitMachine.TestCase
TestProfit.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
