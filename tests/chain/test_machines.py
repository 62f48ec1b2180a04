"""Random sequences of calls: on the ledger alone with its invariants, and on ledger and contracts side by side.

`TESTS_PROFILE=long` runs some thousands of transactions instead of some hundreds and prints how many; `CHAIN_SEED`
chooses other ones. Each run is a test of its own, so that they can be spread over processes.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chain.machine_base import COVERED
from tests.chain.machine_conduct import Conduct
from tests.profile import LONG

FIRST_SEED = int(os.environ.get("CHAIN_SEED", "0"))


class SideBySide(Conduct):
    with_contracts = True
    look_again = 1 if LONG else 6


LEDGER_RUNS, LEDGER_STEPS = (150, 200) if LONG else (12, 100)
RUNS, STEPS, AT_LEAST = (25, 200, 80) if LONG else (2, 60, 60)
"""Side by side: how many runs of how many steps, and how many transactions each must at least have compared."""


def explore(machine: type[Conduct], number: int, steps: int) -> None:
    """One independent run: within one, hypothesis mostly varies what it has, and finds little that is new."""
    profile = settings(
        max_examples=2, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    seeded = seed(number)(type(f"{machine.__name__}{number}", (machine,), {}))
    run_state_machine_as_test(seeded, settings=profile)


@pytest.mark.timeout(3600)
def test_no_sequence_of_calls_breaks_the_ledgers_invariants() -> None:
    for number in range(FIRST_SEED, FIRST_SEED + LEDGER_RUNS):
        explore(Conduct, number, LEDGER_STEPS)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(FIRST_SEED, FIRST_SEED + RUNS))
def test_ledger_and_contracts_agree_after_every_call_to_the_wei(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    COVERED.clear()
    explore(SideBySide, number, STEPS)
    compared, failed = COVERED.total(), sum(times for call, times in COVERED.items() if "!" in call)
    if LONG:
        with capsys.disabled():
            sys.stdout.write(f"\nrun {number}: {compared} transactions, {failed} refused, {len(COVERED)} outcomes\n")
    assert compared >= AT_LEAST
