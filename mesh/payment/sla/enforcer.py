"""Enforces service-level commitments: collects the signed reports of gateways, and shows the chain those of a miss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eth_utils import to_canonical_address

from chain.client.staking import StakingClient
from chain.contract_errors import SlaAlreadyPenalized
from chain.primitives import key_of
from chain.vouchers import Domain
from mesh.errors import MeshError
from mesh.payment.settlement.leaves import fetch_document
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell
from mesh.payment.settlement.store import SettlementStore
from mesh.payment.settlement.windows import Clock
from mesh.payment.sla.reports import MAX_REPORTS, SignedReport, read_reports, shows_miss
from mesh.transport.port import PeerId, Transport

MAX_GATEWAYS = 100
FETCH_SECONDS = 10.0

Gateways = Callable[[], Mapping[str, PeerId]]
"""Peers of the gateways that we know, by gateway id."""


class SlaEnforcer(SettlementLoop):
    """Once an epoch, while its evidence is accepted, fetches the reports of every gateway that is known and active.

    `own` is our own gateway's id and store, whose reports need no fetching. Whoever has a wallet may run one: the
    penalty is burned, so nobody gains by a report, and more than half of a quorum must show the miss.
    """

    def __init__(
        self,
        client: StakingClient,
        transport: Transport | None,
        gateways: Gateways,
        *,
        own: tuple[str, SettlementStore] | None = None,
        poll: float = POLL_SECONDS,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(client, "sla", tell, poll)
        self._transport = transport
        self._gateways = gateways
        self._own = own
        self._reports: dict[int, dict[str, list[SignedReport]]] = {}
        self._penalised: set[tuple[str, int]] = set()
        deployment = client.deployment
        self._domain = Domain(deployment.chain_id, to_canonical_address(deployment.address("Slashing")))

    async def _round(self) -> int:
        clock = await self._clock()
        sent = 0
        self._reports = {epoch: found for epoch, found in self._reports.items() if clock.now < epoch + clock.delay}
        for epoch in range(max(1, clock.now - clock.delay + 1), clock.now):
            if clock.may_challenge(epoch):  # evidence is accepted as long as a challenge
                sent += await self._enforce(epoch, await self._collect(epoch, clock))
        return sent

    async def _collect(self, epoch: int, clock: Clock) -> dict[str, list[SignedReport]]:
        """Reports by gateway: what we have, and of each gateway that we have none of, what it gives us now."""
        found = self._reports.setdefault(epoch, {})
        known = dict(sorted(self._gateways().items())[:MAX_GATEWAYS])
        if self._own is not None:
            known.setdefault(self._own[0], "")
        for gateway, peer in known.items():
            if gateway in found or not await self._client.gateways.is_active(gateway):
                continue
            try:
                body = await self._body(gateway, peer, epoch)
                if body is None:
                    continue
                signer = await self._client.core.view("GatewayRegistry", "signerAt", key_of(gateway), epoch)
                found[gateway] = read_reports(
                    body, gateway=gateway, epoch=epoch, domain=self._domain, signer=to_canonical_address(signer)
                )
            except MeshError as error:
                self._once("trouble", f"reports/{gateway}/{epoch}", f"no reports of {gateway}, epoch {epoch}: {error}")
        return found

    async def _body(self, gateway: str, peer: PeerId, epoch: int) -> bytes | None:
        if self._own is not None and gateway == self._own[0]:
            return self._own[1].reports(gateway, epoch)
        if self._transport is None:
            return None
        return await fetch_document(
            self._transport, peer, "reports", gateway, 0, epoch, limit=MAX_REPORTS, timeout=FETCH_SECONDS
        )

    async def _enforce(self, epoch: int, reports: Mapping[str, list[SignedReport]]) -> int:
        by_provider: dict[str, list[SignedReport]] = {}
        for each in (report for some in reports.values() for report in some):
            by_provider.setdefault(each.provider, []).append(each)
        quorum = int(await self._client.core.view("Slashing", "quorum"))
        sent = 0
        for provider, some in sorted(by_provider.items()):
            if len(some) < quorum or (provider, epoch) in self._penalised:
                continue
            promise = await self._client.slashing.sla(provider)
            if not promise.from_epoch <= epoch <= promise.until_epoch:
                continue
            shown = shows_miss(some, uptime_bps=promise.uptime_bps, latency_ms=promise.latency_ms, quorum=quorum)
            if not shown:
                continue
            text = f"{provider} missed its service level in epoch {epoch}, by {len(shown)} reports"
            event = SettlementEvent("sent", "enforce_sla", text, epoch=epoch, provider=provider)
            action = self._client.slashing.enforce_sla(
                provider, epoch, [each.report for each in shown], [each.signature for each in shown]
            )
            step = f"enforce/{provider}/{epoch}"
            done = await self._send(step, action, event)
            sent += done is not None
            if done is not None or isinstance(self._refusals.get(step), SlaAlreadyPenalized):
                self._penalised.add((provider, epoch))
        return sent
