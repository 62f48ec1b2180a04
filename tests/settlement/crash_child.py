"""A party's settlement that is killed with signal 9 at a chosen moment; run in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chain.client.journal import Journal
from chain.client.lifecycle import Policy
from chain.client.staking import StakingClient, chain_name
from chain.deploy import Deployment
from chain.devnet.accounts import faucet
from chain.vouchers import PaymentVoucher
from mesh.errors import PeerUnreachable
from mesh.payment.credit.store import PaymentJournal, Slot
from mesh.payment.settlement.gateway import GatewaySettlement
from mesh.payment.settlement.leaves import CheckedLeaves
from mesh.payment.settlement.loop import SettlementLoop
from mesh.payment.settlement.provider import ProviderSettlement, leaves_from_bytes
from mesh.payment.settlement.store import SettlementStore

QUICK = Policy(resend_after=0.5, stuck_after=2.0, renumber_after=0.5)
WRITES: dict[type[Any], tuple[str, ...]] = {
    Journal: ("record_signed", "record_replacement", "record_sent", "record_mined", "record_end", "record_refused"),
    PaymentJournal: ("seal", "mark_safe", "write_off", "forget_notice"),
    SettlementStore: ("publish", "mark_posted", "keep_leaf", "keep_line", "settle"),
}


class Countdown:
    """Kills its process at the tick numbered `moment`; never for None."""

    def __init__(self, moment: int | None) -> None:
        self._left = moment

    def tick(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._left is not None:
            self._left -= 1

    def watch(self, kind: type[Any], name: str) -> None:
        """Tick before and after every call of a method."""
        original = getattr(kind, name)

        def write(*arguments: Any, **options: Any) -> Any:
            self.tick()
            done = original(*arguments, **options)
            self.tick()
            return done

        setattr(kind, name, write)


class Vouchers:
    """The developers' vouchers of the test."""

    def __init__(self, vouchers: Sequence[tuple[PaymentVoucher, bytes]]) -> None:
        self._vouchers = vouchers

    async def vouchers(self) -> Sequence[tuple[PaymentVoucher, bytes]]:
        return self._vouchers

    async def redeemed(self, voucher: PaymentVoucher, total: int) -> None:
        pass


async def settle(
    url: str, deployment_file: Path, folder: Path, name: str, owner: int, vouchers: list[Any], hidden: bool
) -> None:
    """Rounds of one party until nothing is due. A gateway's name begins with «gate»."""
    deployment = Deployment.read(deployment_file)
    journal = Journal(folder / f"{name}.chain.sqlite", chain_name(deployment))
    client = StakingClient(url, deployment, account=faucet(owner), journal=journal, policy=QUICK, poll=0.02, timeout=60)
    with (
        journal,
        PaymentJournal(folder / f"{name}.payment.sqlite") as payments,
        SettlementStore(folder / f"{name}.settlement.sqlite") as store,
        SettlementStore(folder / "gate.settlement.sqlite") as published,
    ):

        async def fetch(slot: Slot, root: bytes, data_hash: bytes | None) -> CheckedLeaves:
            body = published.published(slot.pair.gateway, slot.pair.model_id, slot.epoch)
            if hidden or body is None:
                raise PeerUnreachable("nobody there")
            return leaves_from_bytes(body, slot, root, data_hash)

        async with client:
            settlement: SettlementLoop
            if name.startswith("gate"):
                settlement = GatewaySettlement(client, name, payments, store, Vouchers(vouchers))
            else:
                settlement = ProviderSettlement(client, payments, store, fetch)
            while await settlement.round():
                pass


def main(moment: int | None, *arguments: Any) -> None:
    """Settle, and die at `moment`; ends by itself when there are fewer moments."""
    countdown = Countdown(moment)
    for kind, names in WRITES.items():
        for name in names:
            countdown.watch(kind, name)
    asyncio.run(settle(*arguments))
