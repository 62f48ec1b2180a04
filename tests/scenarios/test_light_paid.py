"""A gateway without the Go daemon pays its providers on a real chain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from mesh.payment.credit.units import weighted_tokens
from tests.scenarios.paid import PROMPT_TOKENS, paid_swarm, sums

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_gateway_without_the_daemon_pays_and_settles_to_the_wei(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_TRANSPORT", "libp2p")  # only commands that take --transport look at it
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "bob", "gate")) as swarm:
        ann = await swarm.provider("ann", checkpoint, "0:2")
        bob = await swarm.provider("bob", checkpoint, "2:5")
        gate = await swarm.gateway("gate")
        family = psutil.Process(gate.process.pid).children(recursive=True)
        assert not [child for child in family if "p2pd" in " ".join(child.cmdline())]

        epoch = await swarm.chain.next_epoch()
        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200
        assert (await swarm.ask("gate", checkpoint.name, 25)).status_code == 200
        work = weighted_tokens(PROMPT_TOKENS, 40) + weighted_tokens(PROMPT_TOKENS, 25)
        await swarm.until_vouched("ann", 2 * work)
        await swarm.until_vouched("bob", 3 * work)
        await swarm.chain.next_epoch()
        await swarm.event(gate, "post", epoch=epoch)
        await swarm.chain.next_epoch(3)
        async with swarm.chain.client() as client, asyncio.timeout(100):
            while (await sums(client, [swarm.chain.model_id])).shares * 10 != swarm.charged:  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        for child in (ann, bob):
            await swarm.event(child, "claim")
