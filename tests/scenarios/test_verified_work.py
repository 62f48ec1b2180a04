"""Providers in processes of their own, one of which serves other weights under the model's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scenarios.noisy_weights import cheating_environment, noisy_folder
from tests.scenarios.processes import World

pytestmark = pytest.mark.slow


def test_who_has_the_weights_sees_which_hop_serves_noisy_ones_and_that_the_others_do_not(
    world: World, checkpoint: Path, tmp_path: Path
) -> None:
    """There is one provider of each part: so every session goes through the one that cheats."""
    noisy = noisy_folder(checkpoint, tmp_path / "cheat" / checkpoint.name, 1e-3)
    first = world.join(checkpoint, "--blocks", "0:2")
    address = first.event("joined")["maddrs"][0]
    more = cheating_environment(tmp_path / "site")
    cheat = world.join(noisy, "--blocks", "2:4", peers=address, cold=True, more=more)
    last = world.join(checkpoint, "--blocks", "4:5", peers=address)
    for process in (first, cheat, last):
        process.event("serving")
    crook = cheat.event("joined")["peer"]
    looked = world.run("audit", "--peers", address, "--weights", str(checkpoint), "--json")
    rows = {row["peers"][0]: row["outcome"] for row in json.loads(looked.stdout)}
    assert len(rows) == 3
    assert looked.code == 1 and rows[crook] == "differs"
    assert {outcome for peer, outcome in rows.items() if peer != crook} == {"exact"}
