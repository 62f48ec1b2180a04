"""Faults of every kind on the real protocol code: whatever befalls it, what must hold holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.profile import LONG
from tests.simulation.faults import Fault, Plan
from tests.simulation.world import Result, simulate

QUICK = 16
SLOW = range(1000, 2000 if LONG else 1040)
"""All thousand of them are quicker with `python -m tests.simulation --seeds 1000:2000 --jobs 2`."""
CHUNK = 20


def hold(seeds: range) -> list[Result]:
    results = [simulate(seed) for seed in seeds]
    failed = {result.seed: result.broken[:3] for result in results if result.broken}
    assert not failed, f"{failed}\nagain: python -m tests.simulation --seed {next(iter(failed))} --trace"
    return results


@pytest.mark.parametrize("first", range(0, QUICK, 8))
def test_what_must_hold_holds_whatever_fails(first: int) -> None:
    results = hold(range(first, first + 8))

    assert sum(result.faults.total() for result in results) >= 80
    assert all(result.tokens for result in results)
    assert sum(result.guessed for result in results) > 8 * len(results)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(SLOW.start, SLOW.stop, CHUNK))
def test_what_must_hold_holds_for_more_seeds_and_ten_faults_in_each(first: int) -> None:
    results = hold(range(first, first + CHUNK))

    assert sum(result.faults.total() for result in results) >= 10 * CHUNK


def test_lines_that_mistreat_frames_cost_no_token_and_leak_nothing() -> None:
    results = [simulate(seed, hostile=True) for seed in range(500, 512 if LONG else 506)]

    assert not {result.seed: result.broken for result in results if result.broken}
    mistreated = sum(
        result.faults[kind] for result in results for kind in ("frame_doubled", "frame_swapped", "frame_lost")
    )
    assert mistreated > 6 * len(results)


def test_the_same_seed_gives_the_same_trace_in_another_process_and_with_other_hashes() -> None:
    def run(hash_seed: str) -> list[str]:
        command = [sys.executable, "-m", "tests.simulation", "--seeds", "4:9", "--digests"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        folder = Path(__file__).parents[2]
        done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if line.startswith("seed ")]

    first, second = run("1"), run("4242")

    assert len(first) == 5
    assert first == second
    assert first[0].split()[-1] == simulate(4).digest


def test_other_seeds_give_other_traces() -> None:
    assert len({simulate(seed).digest for seed in range(4)}) == 4


# What the simulation once found, with faults set by hand.


def scripted(*faults: Fault) -> Plan:
    return Plan(faults, skews=(0.0,) * 16, rates=(1.0,) * 16, hostile=False, until=25.0)


@pytest.mark.parametrize("seed", range(6))
def test_a_provider_that_comes_while_the_directory_is_away_waits_for_it(seed: int) -> None:
    faults = [Fault(1.0 + n, "kill_provider", 0.5, n / 6, 0.9, 0.5) for n in range(6)]
    away = [Fault(1.2 + n, "directory_outage", 15.0, host / 8, 0.5, 0.5) for n in range(6) for host in range(8)]

    result = simulate(seed, plan=scripted(*sorted([*faults, *away], key=lambda fault: fault.at)))

    assert not result.broken
    assert result.faults["directory_outage"] > 10
