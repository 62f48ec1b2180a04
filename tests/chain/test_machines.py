"""Random sequences of calls: on the ledger alone with its invariants, and on ledger and contracts side by side.

`CHAIN_PROFILE=long` runs some thousands of transactions instead of some hundreds; `CHAIN_SEED` chooses other ones.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chain.machine_base import COVERED
from tests.chain.machine_work import Work

LONG = os.environ.get("CHAIN_PROFILE") == "long"
FIRST_SEED = int(os.environ.get("CHAIN_SEED", "0"))


class SideBySide(Work):
    with_contracts = True


def explore(machine: type[Work], runs: int, steps: int) -> None:
    """So many independent runs: within one, hypothesis mostly varies what it has, and finds little that is new."""
    profile = settings(
        max_examples=2, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    for number in range(FIRST_SEED, FIRST_SEED + runs):
        seeded = seed(number)(type(f"{machine.__name__}{number}", (machine,), {}))
        run_state_machine_as_test(seeded, settings=profile)


@pytest.mark.timeout(3600)
def test_no_sequence_of_calls_breaks_the_ledgers_invariants() -> None:
    explore(Work, *((150, 200) if LONG else (12, 100)))


@pytest.mark.timeout(3600)
def test_ledger_and_contracts_agree_after_every_call_to_the_wei() -> None:
    COVERED.clear()
    explore(SideBySide, *((25, 200) if LONG else (3, 70)))
    assert COVERED.total() > (2000 if LONG else 200)
