"""A simulation that finds nothing is worth nothing: each of these bugs, put into the code, is found in a few seeds."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation, mutated
from tests.simulation.world import simulate

SEEDS = 40


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_bug_is_found(mutation: Mutation) -> None:
    with mutated(mutation):
        seeds = range(mutation.first, mutation.first + SEEDS)
        assert any(simulate(seed, hostile=mutation.hostile).broken for seed in seeds), mutation.what
