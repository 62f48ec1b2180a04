"""kill -9 at every moment of the journal, then a new start: no transaction is lost, none is sent twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chain.client.journal import Journal
from chain.client.lifecycle import State
from chain.client.staking import chain_name
from chain.devnet.accounts import faucet
from chain.errors import NodeError
from tests import warm
from tests.chain.shells import crash_child
from tests.chain.shells.crash_child import ACCOUNT, AMOUNT, deposit
from tests.chain.shells.world import Net

MOST_MOMENTS = 40
CHILD_SECONDS = 60


async def run_child(net: Net, journal: Path, moment: int) -> int:
    """Exit status of a child that dies at `moment`."""
    process = warm.CONTEXT.Process(
        target=crash_child.main, args=(net.url, net.chain.deployment_file, journal, moment), daemon=True
    )
    process.start()
    await asyncio.to_thread(process.join, CHILD_SECONDS)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


@asynccontextmanager
async def blocks_go_on(net: Net, seconds: float = 0.1) -> AsyncIterator[None]:
    """Blocks are mined all the time, so that confirmations come."""

    async def mine() -> None:
        while True:
            with contextlib.suppress(NodeError):
                await net.mine()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(mine())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def state_of(net: Net) -> tuple[int, int]:
    """Deposit of the account, and its nonce."""
    address = faucet(ACCOUNT).address
    nonce = int(await net.rpc.call("eth_getTransactionCount", address, "latest"), 16)
    async with net.client(None) as reader:
        return await reader.escrow.free_of(address), nonce


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_at_any_moment_the_next_start_finishes_what_was_begun_once(any_net: Net, tmp_path: Path) -> None:
    """An approval and a deposit: both happen once, whichever write of the journal was the last."""
    killed = []
    for moment in range(MOST_MOMENTS):
        snapshot = await any_net.snapshot()
        balance, nonce = await state_of(any_net)
        journal = tmp_path / f"{moment}.sqlite"
        async with blocks_go_on(any_net):
            status = await run_child(any_net, journal, moment)
            assert status in (0, -signal.SIGKILL)
            first = await deposit(any_net.url, any_net.deployment, journal)
            again = await deposit(any_net.url, any_net.deployment, journal)
        assert first == again, f"moment {moment}"
        assert await state_of(any_net) == (balance + AMOUNT, nonce + 2), f"moment {moment}"
        with Journal(journal, chain_name(any_net.deployment)) as opened:
            history = opened.history(faucet(ACCOUNT).address)
            assert [intent.state for intent in history] == [State.CONFIRMED] * 2, f"moment {moment}"
        await any_net.revert(snapshot)
        if status == 0:
            break
        killed.append(moment)
    else:
        pytest.fail("the child always died: there are more moments than we tried")
    # Before and after signing, sending and ending, of two transactions, at least.
    assert len(killed) >= 12


async def test_killed_while_replacing_a_stuck_transaction_only_one_is_mined(any_net: Net, tmp_path: Path) -> None:
    journal = tmp_path / "j.sqlite"
    async with any_net.client(ACCOUNT) as client:
        await client.token.approve(any_net.deployment.address("Escrow"), AMOUNT)
    balance, nonce = await state_of(any_net)
    await any_net.automine(False)
    # Signed, sent, and then, stuck, replaced: moment 5 is after the replacement is written and before it is sent.
    assert await run_child(any_net, journal, 5) == -signal.SIGKILL
    with Journal(journal, chain_name(any_net.deployment)) as opened:
        (intent,) = opened.orphans(faucet(ACCOUNT).address)
        assert len(intent.attempts) == 2 and intent.current.sent_at is None
    async with blocks_go_on(any_net):
        await deposit(any_net.url, any_net.deployment, journal)
    await any_net.automine(True)
    assert await state_of(any_net) == (balance + AMOUNT, nonce + 1)


async def test_what_a_killed_process_left_is_finished_even_if_something_else_is_asked(net: Net, tmp_path: Path) -> None:
    journal = tmp_path / "j.sqlite"
    balance, nonce = await state_of(net)
    async with blocks_go_on(net):
        # Approval signed (0, 1), sent (2, 3), mined and ended (…): die right after the deposit is signed.
        moment = 0
        while True:
            snapshot = await net.snapshot()
            assert await run_child(net, tmp_path / f"{moment}.sqlite", moment) == -signal.SIGKILL
            with Journal(tmp_path / f"{moment}.sqlite", chain_name(net.deployment)) as opened:
                left = opened.orphans(faucet(ACCOUNT).address)
            if [intent.label for intent in left] == ["Escrow.deposit"]:
                journal = tmp_path / f"{moment}.sqlite"
                break
            await net.revert(snapshot)
            moment += 1
        async with net.client(ACCOUNT, journal=journal) as client:
            assert [pending.intent.label for pending in client.transactor.recovered] == ["Escrow.deposit"]
            await client.gateways.register("another matter", "")
    assert await state_of(net) == (balance + AMOUNT, nonce + 3)
