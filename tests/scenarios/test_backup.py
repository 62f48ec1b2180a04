"""A paid gateway, a provider and a payer lose their disks, and go on from a backup that was made while they worked."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mesh.payment.credit.terms import CreditTerms
from mesh.payment.credit.units import weighted_tokens
from tests.scenarios.paid import PROMPT_TOKENS, PaidSwarm, paid_swarm

BLOCKS = 5
TOKENS = 30
SERVED_AGAIN_SECONDS = 10.0


async def mesh(home: Path, *arguments: str) -> dict[str, Any]:
    """A command to its end, given that it succeeds: its event."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mesh", *arguments, "--json"),
        env={**os.environ, "XDG_DATA_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    said: dict[str, Any] = json.loads(stdout)
    return said


def places(swarm: PaidSwarm, name: str) -> list[str]:
    """Where a node keeps what a backup of it is to have."""
    return ["--payment-folder", str(swarm.books(name)), "--identity", str(swarm.folder / f"{name}.key")]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_backup_that_was_made_under_load_serves_again_ten_seconds_after_the_disk_was_lost(
    checkpoint: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "gate")) as swarm:
        ann, gate = await swarm.provider("ann", checkpoint, f"0:{BLOCKS}"), await swarm.gateway("gate")
        epoch = await swarm.chain.next_epoch()
        asked = 0

        async def ask() -> None:
            nonlocal asked
            assert (await swarm.ask("gate", checkpoint.name, TOKENS)).status_code == 200
            asked += 1

        await ask()
        backups = {
            name: asyncio.create_task(mesh(home, "backup", str(tmp_path / name), *places(swarm, name)))
            for name in ("ann", "gate")
        }
        while not all(task.done() for task in backups.values()):
            await ask()
        assert {(await task)["files"] >= 3 for task in backups.values()} == {True}
        in_the_backup = asked
        for _ in range(2):
            await ask()
        each = BLOCKS * weighted_tokens(PROMPT_TOKENS, TOKENS)
        await swarm.until_vouched("ann", asked * each, since=epoch)

        for child in (ann, gate):
            await swarm.kill(child)
        for name in ("ann", "gate"):
            shutil.rmtree(swarm.books(name))
            (swarm.folder / f"{name}.key").unlink()
        for name in ("ann", "gate"):
            said = await mesh(home, "restore", str(tmp_path / name), *places(swarm, name))
            assert said["age"] < 60
        held = swarm.units("ann", since=epoch)
        assert held <= asked * each
        swarm.address = ""
        await swarm.provider("ann", checkpoint, f"0:{BLOCKS}")
        gate = await swarm.gateway("gate")
        began = time.monotonic()
        await ask()
        seconds = time.monotonic() - began
        assert seconds < SERVED_AGAIN_SECONDS
        # What neither of them knows any more is gone; all that one of them knew is paid, and nothing twice.
        await swarm.until_vouched("ann", min(held + each, asked * each), since=epoch)
        lost = asked * each - swarm.units("ann", since=epoch)
        unknown_to_both = (asked - 1 - in_the_backup) * each
        assert 0 <= lost <= unknown_to_both + CreditTerms().tokens * BLOCKS
        last = await swarm.chain.next_epoch() - 1
        await swarm.event(gate, "post", epoch=last)
        sys.stdout.write(
            f"served again after {seconds:.1f} s; {lost} of {asked * each} units lost that neither side knew\n"
        )
