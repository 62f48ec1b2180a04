"""A payer and a gateway over lost, late and doubled requests, through crashes of both: nobody loses what he has."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.profile import LONG
from tests.simulation.paying import PayingResult, simulate_paying


def hold(seeds: range) -> list[PayingResult]:
    results = [simulate_paying(seed) for seed in seeds]
    failed = {result.seed: result.broken[:3] for result in results if result.broken}
    assert not failed
    return results


def test_no_voucher_is_lost_and_nobody_is_ahead_by_more_than_an_increment() -> None:
    results = hold(range(40))

    faults: Counter[str] = sum((result.faults for result in results), Counter())
    assert set(faults) == {"cut", "request_lost", "request_doubled", "answer_lost", "kill_agent", "kill_gateway"}
    assert sum(result.handed_out > 0 for result in results) > 35, "a small deposit may not do for anything"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(1000, 1400 if LONG else 1100, 50))
def test_no_voucher_is_lost_and_nobody_is_ahead_by_more_than_an_increment_on_many_seeds(first: int) -> None:
    hold(range(first, first + 50))
