"""Providers in processes of their own, one of which serves other weights under the model's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.client.client import Client
from tests.scenarios.noisy_weights import cheating_environment, noisy_folder
from tests.scenarios.processes import World

pytestmark = pytest.mark.slow


async def test_who_serves_noisy_weights_is_caught_and_routed_around_and_nobody_else_is_accused(
    world: World, checkpoint: Path, tmp_path: Path
) -> None:
    noisy = noisy_folder(checkpoint, tmp_path / "cheat" / checkpoint.name, 1e-3)
    first = world.join(checkpoint, "--blocks", "0:2")
    address = first.event("joined")["maddrs"][0]
    more = cheating_environment(tmp_path / "site")
    cheat = world.join(noisy, "--blocks", "2:4", peers=address, cold=True, more=more)
    last = world.join(checkpoint, "--blocks", "4:5", peers=address)
    for process in (first, cheat, last):
        process.event("serving")
    honest = world.join(checkpoint, "--blocks", "2:5", peers=address)
    also = world.join(checkpoint, "--blocks", "0:2", peers=address)
    for process in (honest, also):
        process.event("serving")
    crook = cheat.event("joined")["peer"]
    async with Client([address], runtime_root=world.runtime, audit=1.0) as client:
        audits = client.backend.audits
        seen = 0
        for number in range(40):
            prompt = [(number * 17 + at * 5) % 290 + 5 for at in range(40)]
            answer = await client.generate("llama", prompt, max_tokens=12, ignore_eos=True)
            seen += any(report.peer == crook for report in answer.completion.route)
            await audits.finished()
            if crook in audits.evidence.factors(0.0):
                break
        assert set(audits.evidence.factors(0.0)) == {crook}, [verdict.text for verdict in audits.verdicts]
        assert seen, "it has served, or there was nothing to catch"
        others = [verdict for verdict in audits.verdicts if verdict.hop.peer != crook]
        assert {verdict.outcome for verdict in others} <= {"exact"}
        for _ in range(4):
            answer = await client.generate("llama", [*prompt, 9], max_tokens=8, ignore_eos=True)
            assert crook not in {report.peer for report in answer.completion.route}
    # The same is seen from the command line, by who has the weights.
    honest.stop()
    looked = world.run("audit", "--peers", address, "--weights", str(checkpoint), "--json")
    rows = {row["peers"][0]: row["outcome"] for row in json.loads(looked.stdout)}
    assert looked.code == 1 and rows[crook] == "differs"
    assert {outcome for peer, outcome in rows.items() if peer != crook} == {"exact"}
