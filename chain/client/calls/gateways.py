"""Gateways, their stake and the lines in it: `client.gateways` (GatewayRegistry, GatewayStaking)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chain.client.actions import Action, Prepared, Spend
from chain.client.calls.consent import sign_consent
from chain.client.calls.names import provider_ids
from chain.client.checks import check_id, check_metadata, check_range
from chain.client.core import Core
from chain.contract_errors import UnknownGateway
from chain.deploy import read_address
from chain.primitives import ZERO_ADDRESS, checksummed, key_of
from chain.units import check_amount


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway, its stake and its credit. `wind_down_end` is 0 unless it winds down; amounts in wei.

    `active` is registered, not deactivated, whitelisted and not overdrawn; `eligible` is what this network works with:
    active, with the least stake, not winding down, not jailed. `reserved` is the part of the stake in lines to
    providers, `debt` what the gateway owes for work that its checkpoints left out.
    """

    id: str
    owner: str
    metadata: str
    active: bool
    eligible: bool
    deactivated: bool
    whitelisted: bool
    overdrawn: bool
    jailed_until: int
    stake: int
    reserved: int
    effective_stake: int
    min_stake: int
    unlock_epoch: int
    wind_down_end: int
    credit: int
    credit_thawing: int
    credit_thaw_end: int
    debt: int
    signer: str


@dataclass(frozen=True, slots=True)
class Line:
    """The part of a gateway's stake that only one provider's compensations can take, in wei.

    `guaranteed` is what work from now on may count on: what does not thaw. `held` waits for challenges to be answered.
    """

    gateway: str
    provider: str
    amount: int
    guaranteed: int
    thawing: int
    thaw_end: int
    held: int


class Gateways:
    """Register, stake, wind down, unstake and claim as a gateway."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # --- the registry ---

    def register(self, identifier: str, metadata: str) -> Action:
        return self._core.action("GatewayRegistry", "register", check_id(identifier), check_metadata(metadata))

    def register_and_stake(self, identifier: str, metadata: str, amount: int) -> Action:
        """Register and stake `amount` wei in one transaction.

        What we have transferred to the registry before is taken first; only the rest needs an approval.
        """
        check_amount(amount)
        call = self._core.call(
            "GatewayRegistry", "registerAndStake", check_id(identifier), check_metadata(metadata), amount
        )

        async def prepare() -> Prepared:
            missing = max(0, amount - await self.sent_to())
            spend = Spend(self._core.deployment.address("GatewayRegistry"), missing) if missing else None
            return Prepared(call, spend)

        return Action(self._core, prepare)

    async def sent_to(self, account: str | None = None) -> int:
        """Wei that an account has transferred to the registry itself, and neither staked nor taken back."""
        return int(await self._core.view("FuncToken", "sentTo", account or self._core.address))

    def return_sent(self) -> Action:
        """Take back what we have transferred to the registry itself and not staked."""
        return self._core.action("GatewayRegistry", "returnSent")

    def update_metadata(self, identifier: str, metadata: str) -> Action:
        return self._core.action("GatewayRegistry", "updateMetadata", check_id(identifier), check_metadata(metadata))

    def deactivate(self, identifier: str) -> Action:
        return self._core.action("GatewayRegistry", "deactivate", check_id(identifier))

    def reactivate(self, identifier: str) -> Action:
        return self._core.action("GatewayRegistry", "reactivate", check_id(identifier))

    def set_signer(self, identifier: str, signer: str, consent: bytes = b"") -> Action:
        """The key that signs vouchers and posts checkpoints, from the next epoch on.

        `consent` is what the signer's own `sign_consent` gives; it is not needed where the signer is the caller.
        """
        return self._core.action("GatewayRegistry", "setSigner", check_id(identifier), read_address(signer), consent)

    def sign_consent(self, identifier: str, owner: str) -> bytes:
        """Our consent to sign for a gateway of `owner`; nothing is sent."""
        return sign_consent(self._core, "GatewayRegistry", identifier, owner)

    def set_whitelisted(self, identifier: str, whitelisted: bool) -> Action:
        """Owner of the contract."""
        return self._core.action("GatewayRegistry", "setWhitelisted", check_id(identifier), whitelisted)

    def set_auto_whitelist(self, enabled: bool) -> Action:
        """Owner of the contract."""
        return self._core.action("GatewayRegistry", "setAutoWhitelist", enabled)

    # --- staking ---

    def stake_for_gateway(self, identifier: str, amount: int) -> Action:
        """Add `amount` wei to the stake; the lock of all of it starts again."""
        spend = Spend(self._core.deployment.address("GatewayStaking"), check_amount(amount))
        return self._core.action("GatewayStaking", "stakeForGateway", check_id(identifier), amount, spend=spend)

    def wind_down_gateways(self, identifiers: Sequence[str]) -> Action:
        """Start the wind-down of each; all or none."""
        return self._core.action("GatewayStaking", "windDownGateways", [check_id(each) for each in identifiers])

    def restart_gateway(self, identifier: str) -> Action:
        """End a wind-down without unstaking."""
        return self._core.action("GatewayStaking", "restartGateway", check_id(identifier))

    def unstake_for_gateway(self, identifier: str) -> Action:
        """Take the whole stake back, after the wind-down and the lock."""
        return self._core.action("GatewayStaking", "unstakeForGateway", check_id(identifier))

    def claim_rewards(self, identifier: str, first: int, last: int) -> Action:
        """Claim routing shares of epochs `first … last` (both included)."""
        check_range(first, last)
        return self._core.action("GatewayStaking", "claimRewards", check_id(identifier), first, last)

    async def view_rewards(self, identifier: str, first: int, last: int) -> int:
        """Wei that `claim_rewards` would pay now."""
        check_range(first, last)
        return int(await self._core.view("GatewayStaking", "viewRewards", check_id(identifier), first, last))

    # --- lines: what is guaranteed to one provider ---

    def fund_lines(self, identifier: str, amounts: Mapping[str, int]) -> Action:
        """Move wei of the effective stake into lines to providers, by their ids; all or none."""
        providers = [check_id(each, "provider") for each in amounts]
        wei = [check_amount(each) for each in amounts.values()]
        return self._core.action("GatewayStaking", "fundLines", check_id(identifier), providers, wei)

    def thaw_line(self, identifier: str, provider: str, amount: int) -> Action:
        """Mark `amount` wei more of a line for release; the clock starts again for all of it that thaws."""
        check_id(provider, "provider")
        return self._core.action("GatewayStaking", "thawLine", check_id(identifier), provider, check_amount(amount))

    def release_line(self, identifier: str, provider: str) -> Action:
        """Make effective stake again of what has thawed and is not held."""
        return self._core.action("GatewayStaking", "releaseLine", check_id(identifier), check_id(provider, "provider"))

    async def line(self, identifier: str, provider: str) -> Line:
        """A gateway's line to a provider; all zero where there is none."""
        return (await self._lines(identifier, [(check_id(provider, "provider"), key_of(provider))]))[0]

    async def lines(self, identifier: str) -> list[Line]:
        """All lines of a gateway that are not empty, found by its events."""
        topic = "0x" + key_of(check_id(identifier)).hex()
        funded = self._core.events("GatewayStaking", "LineFunded", topics=(topic,))
        keys = sorted({event.arguments.provider async for event in funded})
        return [each for each in await self._lines(identifier, await provider_ids(self._core, keys)) if each.amount]

    async def guaranteed(self, identifier: str, provider: str) -> int:
        """Wei of the gateway's stake that only this provider's compensations can take, and that do not thaw."""
        keys = key_of(check_id(identifier)), key_of(check_id(provider, "provider"))
        return int(await self._core.view("GatewayStaking", "guaranteed", *keys))

    async def _lines(self, identifier: str, providers: Sequence[tuple[str, bytes]]) -> list[Line]:
        gateway = key_of(check_id(identifier))
        records = await self._core.views([("GatewayStaking", "lineOf", (gateway, key)) for _, key in providers])
        return [
            Line(identifier, name, each.amount, each.amount - each.thawing, each.thawing, each.thaw_end, each.held)
            for (name, _), each in zip(providers, records, strict=True)
        ]

    # --- status ---

    async def effective_stake(self, identifier: str) -> int:
        """Stake less lines, in wei."""
        return int(await self._core.view("GatewayStaking", "effectiveStake", check_id(identifier)))

    async def is_active(self, identifier: str) -> bool:
        return bool(await self._core.view("GatewayRegistry", "isActive", check_id(identifier)))

    async def is_eligible(self, identifier: str) -> bool:
        """Active, with the least stake, not winding down, not jailed."""
        return bool(await self._core.view("GatewayRegistry", "isEligible", check_id(identifier)))

    async def status(self, identifier: str) -> GatewayStatus:
        """Raises `UnknownGateway`."""
        key = key_of(check_id(identifier))
        owner, epoch = await self._core.views(
            [("GatewayRegistry", "ownerOf", (key,)), ("EpochController", "currentEpoch", ())]
        )
        if owner == checksummed(ZERO_ADDRESS):
            raise UnknownGateway(key)
        (
            gateway, active, eligible, stake, effective, least, overdrawn, credit, debt, jailed, signer,
        ) = await self._core.views(
            [
                ("GatewayRegistry", "gateway", (identifier,)),
                ("GatewayRegistry", "isActive", (identifier,)),
                ("GatewayRegistry", "isEligible", (identifier,)),
                ("GatewayStaking", "stakeOf", (identifier,)),
                ("GatewayStaking", "effectiveStake", (identifier,)),
                ("GatewayStaking", "minGatewayStake", ()),
                ("GatewayStaking", "isOverdrawn", (key,)),
                ("Escrow", "creditStateOf", (key,)),
                ("Settlement", "debtOf", (key,)),
                ("Slashing", "gatewayJailedUntil", (key,)),
                ("GatewayRegistry", "signerAt", (key, epoch)),
            ]
        )  # fmt: skip
        return GatewayStatus(
            id=identifier,
            owner=owner,
            metadata=gateway.metadata,
            active=active,
            eligible=eligible,
            deactivated=gateway.deactivated,
            whitelisted=gateway.whitelisted,
            overdrawn=overdrawn,
            jailed_until=jailed,
            stake=stake.amount,
            reserved=stake.reserved,
            effective_stake=effective,
            min_stake=least,
            unlock_epoch=stake.unlock_epoch,
            wind_down_end=stake.wind_down_end,
            credit=credit.amount,
            credit_thawing=credit.thawing,
            credit_thaw_end=credit.thaw_end,
            debt=debt,
            signer=signer,
        )
