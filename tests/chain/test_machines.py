"""Random sequences of calls: on the ledger alone with its invariants, and on ledger and contracts side by side.

`CHAIN_PROFILE=long` runs some thousands of transactions instead of some hundreds.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chain.machine_base import COVERED
from tests.chain.machine_work import Work

LONG = os.environ.get("CHAIN_PROFILE") == "long"


class SideBySide(Work):
    with_contracts = True


def profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.mark.timeout(3600)
def test_no_sequence_of_calls_breaks_the_ledgers_invariants() -> None:
    run_state_machine_as_test(Work, settings=profile(*((150, 120) if LONG else (12, 60))))


@pytest.mark.timeout(3600)
def test_ledger_and_contracts_agree_after_every_call_to_the_wei() -> None:
    COVERED.clear()
    run_state_machine_as_test(SideBySide, settings=profile(*((60, 120) if LONG else (5, 40))))
    assert COVERED.total() > (2000 if LONG else 200)
