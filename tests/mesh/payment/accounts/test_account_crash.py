"""kill -9 of a real process at any moment: no voucher is lost, nothing is charged twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.payment.accounts.store import AccountStore
from tests.mesh.payment.accounts import account_crash_child
from tests.mesh.payment.accounts.account_crash_child import PAYER, STEP

RUNS = 12


@pytest.mark.processes
def test_a_gateway_that_is_killed_again_and_again_keeps_every_voucher_and_every_charge(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    draw = random.Random(7)
    vouchers = given = 0  # over all runs, as their developers saw it
    for seed in range(RUNS):
        lines = run_and_kill(path, seed, draw.randrange(1, 120))
        assert lines[0].split()[0] == "start"
        for line in lines[1:]:
            what, one, _ = line.split()
            if what == "voucher":
                vouchers = int(one)
            elif what == "gave":
                given += int(one)
        # What was given after the last line that we read is not known; it is bounded by what was charged for it.
        with AccountStore(path, "g") as store:
            account = store.account(PAYER)
            assert account is not None
            assert account.signed >= vouchers
            assert account.charged >= given
            assert account.charged <= account.signed
            assert account.charged - given <= STEP * (seed + 1), "every kill costs its developer at most a step"
            assert sum(each.amount for each in store.charges(newest=10**6)) == account.charged
            assert all(each.done for each in store.charges(newest=10**6))


def run_and_kill(path: Path, seed: int, after: int) -> list[str]:
    """What a process said before it was killed after so many lines."""
    root = Path(__file__).parents[4]
    child = subprocess.Popen(
        [sys.executable, "-m", account_crash_child.__name__, str(path), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if len(lines) > after:
            child.kill()
            break
    lines += child.stdout.readlines()
    child.wait(20)
    child.stdout.close()
    return [line for line in lines if line.endswith("\n")]
