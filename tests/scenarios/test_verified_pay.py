"""Real processes on a real chain: a staked provider with other weights earns nothing, and is not seen by developers."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scenarios.noisy_weights import UNCHECKED, noisy_folder
from tests.scenarios.paid import PaidSwarm, paid_swarm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def standings(swarm: PaidSwarm, gateway: str) -> dict[str, tuple[str, int]]:
    """What a gateway says of each provider: its state, and audits that differed."""
    url = f"{swarm.urls[gateway].removesuffix('/v1')}/mesh/verification"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
    return {each["provider"]: (each["state"], each["differing"]) for each in found["providers"]}


@pytest.fixture
async def swarm(checkpoint: Path, tmp_path: Path) -> AsyncIterator[PaidSwarm]:
    """Two honest providers, and a third whose weights are noisy in a folder that claims to be the model."""
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "crook", "gate")) as swarm:
        noisy = noisy_folder(checkpoint, tmp_path / "cheat" / checkpoint.name, 1e-2)
        await swarm.provider("ann", checkpoint, "0:2")
        await swarm.provider("bob", checkpoint, "2:5")
        await swarm.provider("crook", noisy, "0:2", patch=UNCHECKED)
        yield swarm


async def test_who_serves_other_weights_is_staked_for_nothing_before_and_after_the_gateway_is_killed(
    swarm: PaidSwarm, checkpoint: Path
) -> None:
    gateway = await swarm.gateway("gate", weights=checkpoint)
    for tokens in (20, 30):
        assert (await swarm.ask("gate", checkpoint.name, tokens)).status_code == 200
    before = standings(swarm, "gate")
    state, differing = before["crook"]
    assert state == "not verified" and differing >= 1
    assert before["ann"] == before["bob"] == ("verified", 0)
    await swarm.kill(gateway)
    await swarm.gateway("gate", weights=checkpoint)
    after = standings(swarm, "gate")
    assert after["crook"] == ("not verified", differing) and after["ann"][0] == after["bob"][0] == "verified"
    assert (await swarm.ask("gate", checkpoint.name, 20)).status_code == 200
    assert swarm.units("crook") == 0
    assert swarm.units("ann") >= 2 * (3 * 4 + 4 * 70) and swarm.units("bob") >= 3 * (3 * 4 + 4 * 70)
