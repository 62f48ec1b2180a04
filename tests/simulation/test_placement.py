"""Many nodes that come, go and move: none leaves blocks to nobody, and no gap stays that could be closed."""

from __future__ import annotations

import pytest

from tests.profile import LONG
from tests.simulation.placement import PlacementResult, simulate_placement


def hold(seeds: range) -> list[PlacementResult]:
    results = [simulate_placement(seed) for seed in seeds]
    failed = {result.seed: result.broken[:3] for result in results if result.broken}
    assert not failed
    return results


def test_no_move_opens_a_gap_and_every_gap_is_closed() -> None:
    results = hold(range(24))

    assert sum(result.moves_checked for result in results) > 20
    assert sum(result.gap_seconds for result in results) > 10, "there were gaps to close"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(1000, 1400 if LONG else 1100, 50))
def test_no_move_opens_a_gap_and_every_gap_is_closed_on_many_seeds(first: int) -> None:
    hold(range(first, first + 50))
