"""Which of the providers that announce themselves a gateway routes to: those that the chain bears out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh.discovery.records import ProviderRecord
from mesh.errors import BadRecord
from mesh.payment.credit.terms import ChainView, NotAccepted, accept_binding

logger = logging.getLogger(__name__)

MAX_KNOWN = 4096


class Vetting:
    """What is known of the providers of one gateway."""

    def __init__(self, chain: ChainView) -> None:
        self._chain = chain
        self._passed_over: dict[str, str] = {}
        """Why peers that announce themselves are not routed to, as it was said last."""
        self.known: dict[str, str] = {}
        """Peers of the eligible providers that announced themselves, by provider id."""
        self.ids: dict[str, str] = {}
        """Their provider ids, by peer."""
        self.barred: Callable[[str], str | None] = lambda provider: None
        """Why a provider (its id) is not routed to whatever the chain says; None where it may be."""

    async def vet(self, records: Sequence[ProviderRecord]) -> list[ProviderRecord]:
        """The records whose providers are eligible on the chain for the model that they announce, by its name there."""
        checked = await asyncio.gather(*(self._is_eligible(record) for record in records))
        return [record for record, eligible in zip(records, checked, strict=True) if eligible]

    async def _is_eligible(self, record: ProviderRecord) -> bool:
        try:
            binding = accept_binding(record.account, peer=record.peer, role="provider", domain=self._chain.domain)
            facts = await self._chain.check_provider(binding)
            if facts.manifest.hex() != record.digest:
                raise NotAccepted("it is staked for another model than it announces")
            if facts.name != record.model:
                raise NotAccepted(f"it calls its model {record.model!r}, on the chain that is {facts.name!r}")
            if (why := self.barred(binding.id)) is not None:
                raise NotAccepted(f"its work was not its model's: {why}")
        except (BadRecord, NotAccepted) as error:
            self._say_passed_over(record.peer, str(error))
            return False
        if binding.id in self.known or len(self.known) < MAX_KNOWN:
            self.known[binding.id] = record.peer
        self.ids.pop(record.peer, None)
        while len(self.ids) >= MAX_KNOWN:
            del self.ids[next(iter(self.ids))]
        self.ids[record.peer] = binding.id
        return True

    def _say_passed_over(self, peer: str, why: str) -> None:
        """Once for each reason: strangers' records are looked at every few seconds, and cost nothing."""
        if self._passed_over.get(peer) != why:
            logger.info("provider %s is passed over: %s", peer, why)
        self._passed_over.pop(peer, None)
        while len(self._passed_over) >= MAX_KNOWN:
            del self._passed_over[next(iter(self._passed_over))]
        self._passed_over[peer] = why
