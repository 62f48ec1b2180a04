"""Enforces service-level commitments: collects the signed reports of gateways, and shows the chain those of a miss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eth_utils import to_canonical_address

from chain.client.staking import StakingClient
from chain.contract_errors import SlaAlreadyPenalized
from chain.primitives import key_of
from chain.vouchers import ContributionReceipt, Domain, digest, is_signed_by
from mesh.errors import MeshError
from mesh.payment.settlement.leaves import fetch_document
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell
from mesh.payment.settlement.store import SettlementStore
from mesh.payment.sla.known_gateways import MAX_GATEWAYS
from mesh.payment.sla.reports import MAX_REPORTS, Served, SignedReport, read_reports, shows_miss
from mesh.transport.port import PeerId, Transport

FETCH_SECONDS = 10.0

Gateways = Callable[[], Mapping[str, PeerId]]
"""Peers of the staked gateways that we know, by gateway id, the most staked first."""


class SlaEnforcer(SettlementLoop):
    """Once an epoch is claimable, and as long again, fetches the reports of the gateways that providers worked for.

    Which those are the chain says by the leaves that were proved, not we: a penalty needs the miss shown by more than
    half of them, by stake and by work. `own` is our own gateway's id and store, whose reports need no fetching. The
    penalty is burned, so nobody gains by a report.
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
        window = [
            epoch for epoch in range(max(1, clock.now - 2 * clock.delay), clock.now) if clock.may_enforce_sla(epoch)
        ]
        self._reports = {epoch: self._reports.get(epoch, {}) for epoch in window}
        sent = 0
        for epoch in window:
            sent += await self._enforce(epoch, await self._collect(epoch))
        return sent

    async def _collect(self, epoch: int) -> dict[str, list[SignedReport]]:
        """Reports by gateway: what we have, and of each gateway that we have none of, what it gives us now."""
        found = self._reports[epoch]
        known = dict(list(self._gateways().items())[:MAX_GATEWAYS])
        if self._own is not None:
            known.setdefault(self._own[0], "")
        for gateway, peer in known.items():
            if gateway in found:
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
            if (provider, epoch) in self._penalised:
                continue
            promise = await self._client.slashing.sla(provider)
            if not promise.from_epoch <= epoch <= promise.until_epoch:
                continue
            served = await self._served(provider, epoch)
            shown = shows_miss(
                await self._acknowledged(some, epoch),
                served,
                uptime_bps=promise.uptime_bps,
                latency_ms=promise.latency_ms,
                quorum=quorum,
            )
            if not shown:
                continue
            text = f"{provider} missed its service level in epoch {epoch}, by {len(shown)} reports"
            event = SettlementEvent("sent", "enforce_sla", text, epoch=epoch, provider=provider)
            action = self._client.slashing.enforce_sla(
                provider,
                epoch,
                [each.gateway for each in served],
                [each.report for each in shown],
                [each.signature for each in shown],
                [each.receipt_units for each in shown],
                [each.receipt_signature for each in shown],
            )
            step = f"enforce/{provider}/{epoch}"
            done = await self._send(step, action, event)
            sent += done is not None
            if done is not None or isinstance(self._refusals.get(step), SlaAlreadyPenalized):
                self._penalised.add((provider, epoch))
        return sent

    async def _acknowledged(self, reports: Sequence[SignedReport], epoch: int) -> list[SignedReport]:
        """Those whose receipt the provider did sign: with another one the chain would refuse them all."""
        deployment = self._client.deployment
        domain = Domain(deployment.chain_id, to_canonical_address(deployment.address("Settlement")))
        found = []
        for each in reports:
            key = each.report.provider
            signer, provides = await self._client.core.views(
                [("ProviderRegistry", "signerAt", (key, epoch)), ("ProviderRegistry", "ownerAndModel", (key,))]
            )
            _, model_id = provides.values()
            receipt = ContributionReceipt(each.report.gateway, key, model_id, epoch, each.receipt_units)
            if is_signed_by(digest(domain, receipt), each.receipt_signature, to_canonical_address(signer)):
                found.append(each)
        return found

    async def _served(self, provider: str, epoch: int) -> list[Served]:
        """All gateways that the provider worked for in an epoch, by the leaves that were proved, in order of key."""
        core, key = self._client.core, key_of(provider)
        _, model_id = (await core.view("ProviderRegistry", "ownerAndModel", key)).values()
        posters = sorted({bytes(each) for each in await core.view("Settlement", "postersOf", model_id, epoch)})
        units = await core.views([("Settlement", "provenUnits", (each, key, epoch)) for each in posters])
        stakes = await core.views([("GatewayStaking", "effectiveStakeOfKey", (each,)) for each in posters])
        return [
            Served(gateway, proven, stake)
            for gateway, proven, stake in zip(posters, units, stakes, strict=True)
            if proven
        ]
