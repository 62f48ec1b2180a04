"""A client that is killed with signal 9 at a chosen moment of its journal; run in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from chain.client.journal import Journal
from chain.client.lifecycle import Policy
from chain.client.staking import StakingClient, chain_name
from chain.deploy import Deployment
from chain.devnet.accounts import faucet

DEEP = Policy(confirmations=2, resend_after=1.0, stuck_after=1.0, renumber_after=0.5)
ACCOUNT = 6
AMOUNT = 5
KEY = "the deposit"
WRITES = (
    "record_signed", "record_replacement", "record_renumbered", "record_sent", "record_mined", "record_lost",
    "record_end", "record_refused",
)  # fmt: skip


class DyingJournal(Journal):
    """Counts the moments before and after every write, and kills its process at the one numbered `moment`."""

    def __init__(self, path: Path, chain: str, moment: int) -> None:
        super().__init__(path, chain)
        self._left = moment

    def _tick(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def _dying(name: str) -> Any:
    def write(self: DyingJournal, *arguments: Any, **options: Any) -> Any:
        self._tick()
        done = getattr(Journal, name)(self, *arguments, **options)
        self._tick()
        return done

    return write


for _name in WRITES:
    setattr(DyingJournal, _name, _dying(_name))


async def deposit(url: str, deployment: Deployment, journal: Journal | Path) -> str:
    """Deposit once, under a key; the transaction's hash."""
    client = StakingClient(
        url, deployment, account=faucet(ACCOUNT), journal=journal, policy=DEEP, poll=0.02, timeout=60
    )
    async with client:
        return (await client.escrow.deposit(AMOUNT).execute(key=KEY)).tx_hash


def main(url: str, deployment_file: Path, journal: Path, moment: int) -> None:
    """Deposit, and die at `moment`; ends by itself when there are fewer moments."""
    deployment = Deployment.read(deployment_file)
    with DyingJournal(journal, chain_name(deployment), moment) as dying:
        asyncio.run(deposit(url, deployment, dying))
