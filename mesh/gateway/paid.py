"""A gateway that is paid and pays: its desk on the chain, its developers' accounts, its books with providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mesh.client.client import Client
from mesh.gateway.billing import Billing, BillingConfig, billing_for
from mesh.identity import Identity
from mesh.payment.desk import Ask, Desk, PaymentConfig, Tell, gateway_desk
from mesh.payment.purser import Purser


@dataclass(frozen=True, slots=True)
class PaidGateway:
    """Use `open` before the client to the swarm is made, and `running` around what it serves."""

    desk: Desk
    billing: Billing
    tell: Tell

    @classmethod
    @asynccontextmanager
    async def open(cls, config: PaymentConfig, identity: Identity, ask: Ask, tell: Tell) -> AsyncIterator[PaidGateway]:
        """Register and stake, and open the accounts. Raises as `gateway_desk`."""
        async with gateway_desk(config, identity, ask=ask, tell=tell) as desk:
            limits = BillingConfig(increment_tokens=config.terms.tokens, pause_seconds=config.terms.pause_seconds)
            store = config.folder / f"accounts-{desk.file_name}.sqlite"
            async with billing_for(limits, desk.client, store, desk.id) as billing:
                yield cls(desk, billing, tell)

    def purser(self, tasks: asyncio.TaskGroup) -> Purser:
        """The one that pays the hops."""
        desk = self.desk
        return Purser(
            gateway=desk.id,
            identity=desk.identity,
            account=desk.config.account,
            journal=desk.journal,
            chain=desk.view,
            tasks=tasks,
        )

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator[None]:
        """Follow the chain and settle its epochs while the block runs."""
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(self.desk.view.run())
            try:
                yield
            finally:
                following.cancel()
