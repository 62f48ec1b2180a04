"""A node of several stages that works for money: one account, an id and books per stage, and every wei paid once."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from mesh.cli.processes import Child
from mesh.payment.credit.units import weighted_tokens
from tests.scenarios.paid import EVENT_SECONDS, LOOPBACK, PROMPT_TOKENS, START_SECONDS, PaidSwarm, paid_swarm, sums

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


async def start_node(swarm: PaidSwarm, name: str, model: Path) -> Child:
    """Two stages of the model on one machine, which work for one wallet."""
    child = await swarm.family.start(
        name,
        *("join", "--model", str(model), "--device", "cpu", "--device", "cpu", "--json", "--threads", "1"),
        *("--host-maddrs", LOOPBACK, "--identity", str(swarm.folder / f"{name}.key"), "--provider-id", name),
        *swarm.chain.options(name),
    )
    swarm.address = (await child.wait_for("joined", START_SECONDS))["maddrs"][0]
    await serving(child, 2)
    return child


async def serving(child: Child, times: int) -> None:
    def found() -> dict[str, int] | None:
        count = sum(event["event"] == "serving" for event in child.events)
        return {"count": count} if count >= times else None

    await child.wait_until(found, f"serve {times} times", START_SECONDS)


def units_held(swarm: PaidSwarm, name: str, stage: str) -> int:
    """Units of all the vouchers in a stage's books."""
    with sqlite3.connect(swarm.books(name) / f"provider-{name}-{stage}.sqlite") as db:
        rows = db.execute("SELECT voucher_units FROM slots WHERE side = 'held'").fetchall()
    return sum(int(units) for (units,) in rows)


async def until_vouched(swarm: PaidSwarm, tokens: int) -> None:
    """Each stage holds vouchers for its own blocks and for nobody else's."""
    expected = {"llama-1": 3 * tokens, "llama-2": 2 * tokens}
    async with asyncio.timeout(EVENT_SECONDS):
        while {stage: units_held(swarm, "ann", stage) for stage in expected} != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_two_stages_of_one_account_are_paid_for_their_own_work_also_when_one_is_killed(
    checkpoint: Path, tmp_path: Path
) -> None:
    async with paid_swarm(tmp_path / "run", checkpoint, ("ann", "gate")) as swarm:
        node = await start_node(swarm, "ann", checkpoint)
        assert sorted(event["span"] for event in node.events if event["event"] == "serving") == ["0:3", "3:5"]
        gate = await swarm.gateway("gate")
        epoch = await swarm.chain.next_epoch()
        assert (await swarm.ask("gate", checkpoint.name, 40)).status_code == 200
        work = weighted_tokens(PROMPT_TOKENS, 40)
        await until_vouched(swarm, work)

        pid = next(e["pid"] for e in node.events if e["event"] == "stage_started" and e["stage"] == "llama-2")
        os.kill(pid, signal.SIGKILL)
        await node.wait_for("stage_ended", START_SECONDS)
        await serving(node, 3)
        assert (await swarm.ask("gate", checkpoint.name, 20)).status_code == 200
        work += weighted_tokens(PROMPT_TOKENS, 20)
        await until_vouched(swarm, work)

        last = await swarm.chain.next_epoch() - 1
        await swarm.event(gate, "post", epoch=last)
        await swarm.chain.next_epoch(3)
        for stage in ("llama-1", "llama-2"):
            await swarm.event(node, "claim", provider=f"ann-{stage}")
        async with swarm.chain.client() as client:
            found = await sums(client, [swarm.chain.model_id])
            owners = {(await client.providers.status(f"ann-{stage}")).owner for stage in ("llama-1", "llama-2")}
        assert owners == {swarm.chain.accounts["ann"].address}
        assert epoch <= last
        assert found.fees == swarm.charged
        assert 0 <= found.dust < 4, "less than a wei a provider and epoch"
        await swarm.chain.balances()  # raises unless the balances of all are the supply
        told = [event for event in node.events if event["event"] == "settlement"]
        assert not [event for event in told if event["kind"] in ("refused", "lost")], told
        await swarm.leave(node)
