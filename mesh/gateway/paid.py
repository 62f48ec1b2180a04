"""A gateway that is paid and pays: its desk on the chain, its developers' accounts, its books with providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from chain.vouchers import PaymentVoucher
from mesh.client.client import Client
from mesh.gateway.billing import Billing, BillingConfig, billing_for
from mesh.gateway.metrics import Metrics
from mesh.identity import Identity
from mesh.payment.credit.issuer import Purser
from mesh.payment.onchain.registration import Ask, Desk, PaymentConfig, Tell, gateway_desk
from mesh.payment.settlement.gateway import GatewaySettlement
from mesh.payment.settlement.leaves import LeavesService
from mesh.payment.settlement.loop import SettlementEvent
from mesh.payment.sla.enforcer import SlaEnforcer
from mesh.payment.sla.known_gateways import KnownGateways
from mesh.payment.sla.prober import Prober
from mesh.payment.sla.reports import SlaBook
from mesh.transport.port import PeerId


@dataclass(frozen=True, slots=True)
class PaidGateway:
    """Use `open` before the client to the swarm is made, and `running` around what it serves."""

    desk: Desk
    billing: Billing
    tell: Tell

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: PaymentConfig, limits: BillingConfig, identity: Identity, ask: Ask, tell: Tell
    ) -> AsyncIterator[PaidGateway]:
        """Register and stake, and open the accounts. Raises as `gateway_desk`."""
        async with gateway_desk(config, identity, ask=ask, tell=tell) as desk:
            store = config.folder / f"accounts-{desk.file_name}.sqlite"
            async with billing_for(limits, desk.client, store, desk.id) as billing:
                yield cls(desk, billing, tell)

    def count(self, purser: Purser, metrics: Metrics) -> None:
        """Show what the purser does among the gateway's metrics."""
        purser.on_voucher, purser.on_receipt = metrics.vouchers.inc, metrics.receipts.inc

    def purser(self, tasks: asyncio.TaskGroup) -> Purser:
        """The one that pays the hops."""
        desk = self.desk
        return Purser(
            gateway=desk.id,
            binding=desk.binding,
            account=desk.config.account,
            journal=desk.journal,
            chain=desk.view,
            tasks=tasks,
        )

    @asynccontextmanager
    async def running(self, client: Client, show: Callable[[SettlementEvent], None]) -> AsyncIterator[LeavesService]:
        """Follow the chain, publish checkpoints, probe providers and settle epochs while the block runs."""
        desk, config = self.desk, self.desk.config
        transport = client.node.transport
        leaves = LeavesService(transport, desk.store, desk.id)
        await leaves.start()
        book, others = SlaBook(), KnownGateways(desk.client)
        async with asyncio.TaskGroup() as tasks:

            def tell(event: SettlementEvent) -> None:
                show(event)
                if event.what == "post" and event.epoch is not None:
                    # They will want to see their leaves; we may have come back under another address.
                    peers = {slot.peer for slot in desk.journal.slots("issued", epoch=event.epoch)}
                    tasks.create_task(client.backend.reach(sorted(peers)))

            settlement = GatewaySettlement(
                desk.client,
                desk.id,
                desk.journal,
                desk.store,
                _Redeemable(self.billing),
                sla=book,
                claims=config.claims,
                poll=config.settle_seconds,
                tell=tell,
            )
            prober = Prober(transport, partial(_targets, client), lambda: desk.view.epoch, book)
            enforcer = SlaEnforcer(
                desk.client, transport, others, own=(desk.id, desk.store), poll=config.settle_seconds, tell=show
            )
            work = [tasks.create_task(each.run()) for each in (desk.view, settlement, prober, others, enforcer)]
            try:
                yield leaves
            finally:
                for task in work:
                    task.cancel()


async def _targets(client: Client) -> Mapping[str, PeerId]:
    """The active providers that we know, by their id."""
    purser = client.backend.purser
    return dict(purser.known) if purser is not None else {}


class _Redeemable:
    """The developers' vouchers as settlement sees them."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing

    async def vouchers(self) -> Sequence[tuple[PaymentVoucher, bytes]]:
        billing = self._billing
        return [(each.voucher, each.signature) for each in await billing.write(billing.store.vouchers, due=True)]

    async def redeemed(self, voucher: PaymentVoucher, total: int) -> None:
        await self._billing.write(self._billing.store.mark_redeemed, voucher.payer, total)
