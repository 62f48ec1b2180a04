"""A thousand hostile connections beside twenty honest sessions: all of these end, with the right tokens, in time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

LENIENT_RATIO = 8.0
"""Of the 95th percentiles of the wait between two tokens. The aim is 3, which is the benchmark's to show: the attackers
share these processors with the swarm, and so do other tests."""
MOST_GROWTH_MB = 800.0


def attacked(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hostile", *options], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_a_thousand_hostile_connections_beside_twenty_sessions() -> None:
    found = attacked("--rounds", "2")

    assert min(found["connections"]) >= 850, "a thousand places are tried; who is thrown out comes back after a pause"
    assert found["lost"] == found["differing"] == 0
    assert found["providers_alive"]
    assert found["memory_growth_mb"] < MOST_GROWTH_MB
    assert min(row["ratio"] for row in found["rounds"]) < LENIENT_RATIO


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_few_hostile_connections_of_every_kind() -> None:
    found = attacked("--smoke")

    assert found["lost"] == found["differing"] == 0 and found["providers_alive"]
    (round_,) = found["rounds"]
    kinds = set(round_["attack"]["opened"])
    assert {"tcp silent", "tcp slow", "tcp garbage", "silent", "slow", "garbage", "oversized", "hoarder"} <= kinds
    assert {"flood", "cache hog", "stray", "wrong prompt", "hello", "tls slow", "tls hoarder"} <= kinds
