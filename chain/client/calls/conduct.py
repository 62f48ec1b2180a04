"""Service levels, the jail, and disputes about wrong work: `client.slashing`, `client.disputes`."""

from __future__ import annotations

from collections.abc import Sequence

from chain.abi import Record
from chain.client.actions import Action, Prepared, Spend
from chain.client.checks import check_id
from chain.client.core import Core
from chain.primitives import key_of
from chain.vouchers import SlaReport


class Slashing:
    """Slashing: service-level commitments and the jail."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def commit_sla(self, identifier: str, *, uptime_bps: int, latency_ms: int, penalty_bps: int, epochs: int) -> Action:
        """Promise a share of requests served and a p95 latency, from the next epoch on, for so many epochs."""
        return self._core.action(
            "Slashing", "commitSla", check_id(identifier), uptime_bps, latency_ms, penalty_bps, epochs
        )

    def enforce_sla(
        self,
        identifier: str,
        epoch: int,
        gateways: Sequence[bytes],
        reports: Sequence[SlaReport],
        signatures: Sequence[bytes],
        receipt_units: Sequence[int],
        receipt_signatures: Sequence[bytes],
    ) -> Action:
        """Penalise a missed commitment by reports of a majority, by stake and by work.

        `gateways` are the keys of all gateways with proven work of this provider in the epoch, `reports` those of some
        of them; both ascending by gateway. With each report comes the provider's own receipt for that gateway and
        epoch, its cumulative units and signature: only what the provider acknowledged may accuse it.
        """
        evidence = (list(reports), list(signatures), list(receipt_units), list(receipt_signatures))
        return self._core.action("Slashing", "enforceSla", check_id(identifier), epoch, list(gateways), *evidence)

    async def sla(self, identifier: str) -> Record:
        found: Record = await self._core.view("Slashing", "sla", check_id(identifier))
        return found

    async def provider_jailed_until(self, identifier: str) -> int:
        """Last epoch of a provider's jail; 0 for none."""
        return int(await self._core.view("Slashing", "providerJailedUntil", key_of(check_id(identifier))))

    async def gateway_jailed_until(self, identifier: str) -> int:
        """Last epoch of a gateway's jail; 0 for none."""
        return int(await self._core.view("Slashing", "gatewayJailedUntil", key_of(check_id(identifier))))


class Disputes:
    """Disputes: wrong computation, judged by drawn verifiers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def set_verifier(self, verifier: str, enabled: bool) -> Action:
        """Owner of the contract."""
        return self._core.action("Disputes", "setVerifier", verifier, enabled)

    def open_case(self, identifier: str, epoch: int, evidence_hash: bytes) -> Action:
        """Accuse a provider, as a verifier; `draw_panel` follows two blocks later."""
        return self._core.action("Disputes", "openCase", check_id(identifier), epoch, evidence_hash)

    def draw_panel(self, case_id: int) -> Action:
        """Draw the panel by the hash of the case's `draw_block`; in the 256 blocks after it, else a later one's."""
        return self._core.action("Disputes", "drawPanel", case_id)

    def vote(self, case_id: int, guilty: bool) -> Action:
        return self._core.action("Disputes", "vote", case_id, guilty)

    def dispute(self, case_id: int) -> Action:
        """Ask, with a bond, that a jailed provider be slashed. The bond is approved first."""
        call = self._core.call("Disputes", "dispute", case_id)

        async def prepare() -> Prepared:
            bond = await self._core.view("Disputes", "disputeBond")
            return Prepared(call, Spend(self._core.deployment.address("Disputes"), bond))

        return Action(self._core, prepare)

    def close(self, case_id: int) -> Action:
        return self._core.action("Disputes", "close", case_id)

    def withdraw_payments(self) -> Action:
        return self._core.action("Disputes", "withdrawPayments")

    async def case_of(self, case_id: int) -> Record:
        found: Record = await self._core.view("Disputes", "caseOf", case_id)
        return found

    async def panel_of(self, case_id: int) -> list[str]:
        return list(await self._core.view("Disputes", "panelOf", case_id))
