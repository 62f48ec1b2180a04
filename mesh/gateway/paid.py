"""A gateway that is paid and pays: registration on the chain, its developers' accounts, its books with providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chain.vouchers import PaymentVoucher
from mesh.client.client import Client
from mesh.gateway.billing import Billing, BillingConfig, billing_for
from mesh.gateway.metrics import Metrics
from mesh.identity import Identity
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.onchain.registration import Ask, ChainRegistration, PaymentConfig, Tell, gateway_registration
from mesh.payment.settlement.gateway import LINE, GatewaySettlement
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

    registration: ChainRegistration
    billing: Billing
    tell: Tell

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: PaymentConfig, limits: BillingConfig, identity: Identity, ask: Ask, tell: Tell
    ) -> AsyncIterator[PaidGateway]:
        """Register and stake, and open the accounts. Raises as `gateway_registration`."""
        async with gateway_registration(config, identity, ask=ask, tell=tell) as registration:
            store = config.folder / f"accounts-{registration.file_name}.sqlite"
            async with billing_for(limits, registration.client, store, registration.id) as billing:
                yield cls(registration, billing, tell)

    @property
    def trial_book(self) -> Path:
        """Where it is kept what audits of providers have come to."""
        return self.registration.config.folder / f"trials-{self.registration.file_name}.sqlite"

    def count(self, issuer: VoucherIssuer, metrics: Metrics) -> None:
        """Show what the issuer does among the gateway's metrics."""
        issuer.on_voucher, issuer.on_receipt = metrics.vouchers.inc, metrics.receipts.inc

    def issuer(self, tasks: asyncio.TaskGroup) -> VoucherIssuer:
        """The one that pays the hops."""
        registration = self.registration
        return VoucherIssuer(
            gateway=registration.id,
            binding=registration.binding,
            account=registration.config.account,
            journal=registration.journal,
            chain=registration.view,
            tasks=tasks,
        )

    @asynccontextmanager
    async def running(self, client: Client, show: Callable[[SettlementEvent], None]) -> AsyncIterator[LeavesService]:
        """Follow the chain, publish checkpoints, probe providers and settle epochs while the block runs."""
        registration, config = self.registration, self.registration.config
        transport = client.node.transport
        leaves = LeavesService(transport, registration.store, registration.id)
        await leaves.start()
        book, others = SlaBook(), KnownGateways(registration.client)
        client.backend.on_hop = partial(_observe, client, book, lambda: registration.view.epoch)
        async with asyncio.TaskGroup() as tasks:

            def tell(event: SettlementEvent) -> None:
                show(event)
                if event.what == "post" and event.epoch is not None:
                    # They will want to see their leaves; we may have come back under another address.
                    peers = {slot.peer for slot in registration.journal.slots("issued", epoch=event.epoch)}
                    tasks.create_task(client.backend.reach(sorted(peers)))

            settlement = GatewaySettlement(
                registration.client,
                registration.id,
                registration.journal,
                registration.store,
                _Redeemable(self.billing),
                sla=book,
                routes=partial(_in_use, client),
                line=config.line if config.line is not None else LINE,
                claims=config.claims,
                poll=config.settle_seconds,
                tell=tell,
            )
            if client.backend.issuer is not None:
                client.backend.issuer.on_short = lambda provider: settlement.wake()
            prober = Prober(transport, partial(_targets, client), lambda: registration.view.epoch, book)
            enforcer = SlaEnforcer(
                registration.client,
                transport,
                others,
                own=(registration.id, registration.store),
                poll=config.settle_seconds,
                tell=show,
            )
            work = [tasks.create_task(each.run()) for each in (registration.view, settlement, prober, others, enforcer)]
            try:
                yield leaves
            finally:
                for task in work:
                    task.cancel()


async def _targets(client: Client) -> Mapping[str, PeerId]:
    """The active providers that we know, by their id."""
    issuer = client.backend.issuer
    return dict(issuer.known) if issuer is not None else {}


def _in_use(client: Client) -> list[str]:
    """Ids of the providers that serve sessions of ours now."""
    busy = client.backend.in_use()
    issuer = client.backend.issuer
    return [] if issuer is None else [name for name, peer in issuer.known.items() if peer in busy]


def _observe(client: Client, book: SlaBook, epoch: Callable[[], int], peer: PeerId, served: bool) -> None:
    """A request that a provider served or failed, into the book of service levels."""
    issuer = client.backend.issuer
    known = issuer.known if issuer is not None else {}
    for provider in [name for name, at in known.items() if at == peer]:
        book.observe(provider, epoch(), served, request=True)


class _Redeemable:
    """The developers' vouchers as settlement sees them."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing

    async def vouchers(self) -> Sequence[tuple[PaymentVoucher, bytes]]:
        billing = self._billing
        return [(each.voucher, each.signature) for each in await billing.write(billing.store.vouchers, due=True)]

    async def redeemed(self, voucher: PaymentVoucher, total: int) -> None:
        await self._billing.write(self._billing.store.mark_redeemed, voucher.payer, total)
