"""A simulation that finds nothing is worth nothing: each of these bugs, put into the code, is found in a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation, mutated
from tests.simulation.paying import simulate_paying
from tests.simulation.placement import simulate_placement
from tests.simulation.world import simulate

SEEDS = 40
QUICK = frozenset(
    {
        "a provider does not write vouchers down",
        "a session that resumes has forgotten its last token",
        "a session that ends does not give its memory back",
        "a payer pays two increments ahead",
    }
)


def broken(mutation: Mutation) -> Iterator[list[str]]:
    """What does not hold, seed by seed."""
    run: Callable[[int], list[str]]
    match mutation.simulation:
        case "swarm":
            run = lambda seed: simulate(seed, hostile=mutation.hostile).broken  # noqa: E731
        case "paying":
            run = lambda seed: simulate_paying(seed).broken  # noqa: E731
        case "placement":
            run = lambda seed: simulate_placement(seed).broken  # noqa: E731
    with mutated(mutation):
        yield from map(run, range(mutation.first, mutation.first + SEEDS))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "mutation",
    [pytest.param(each, id=each.what, marks=[] if each.what in QUICK else [pytest.mark.slow]) for each in MUTATIONS],
)
def test_a_bug_is_found(mutation: Mutation) -> None:
    assert any(broken(mutation)), mutation.what
