"""Gateways and developers: `client.gateways` (GatewayRegistry, GatewayStaking) and `client.escrow` (Escrow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chain.client.actions import Action, Spend
from chain.client.checks import check_id, check_metadata, check_range
from chain.client.core import Core
from chain.contract_errors import UnknownGateway
from chain.deploy import read_address
from chain.primitives import ZERO_ADDRESS, checksummed, key_of
from chain.units import check_amount
from chain.vouchers import PaymentVoucher


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway, its stake and its credit. `wind_down_end` is 0 unless it winds down; amounts in wei."""

    id: str
    owner: str
    metadata: str
    active: bool
    deactivated: bool
    whitelisted: bool
    overdrawn: bool
    jailed_until: int
    stake: int
    effective_stake: int
    min_stake: int
    unlock_epoch: int
    wind_down_end: int
    credit: int
    signer: str


@dataclass(frozen=True, slots=True)
class Deposit:
    """A developer's deposit, in wei. `thaw_end` is the first epoch in which what thaws may be withdrawn."""

    payer: str
    balance: int
    available: int
    thawing: int
    thaw_end: int


class Gateways:
    """Register, stake, wind down, unstake and claim as a gateway."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # --- the registry ---

    def register(self, identifier: str, metadata: str) -> Action:
        return self._core.action("GatewayRegistry", "register", check_id(identifier), check_metadata(metadata))

    def register_and_stake(self, identifier: str, metadata: str, amount: int) -> Action:
        """Register and stake `amount` wei in one transaction."""
        spend = Spend(self._core.deployment.address("GatewayRegistry"), check_amount(amount))
        check_id(identifier)
        return self._core.action(
            "GatewayRegistry", "registerAndStake", identifier, check_metadata(metadata), amount, spend=spend
        )

    def update_metadata(self, identifier: str, metadata: str) -> Action:
        return self._core.action("GatewayRegistry", "updateMetadata", check_id(identifier), check_metadata(metadata))

    def deactivate(self, identifier: str) -> Action:
        return self._core.action("GatewayRegistry", "deactivate", check_id(identifier))

    def reactivate(self, identifier: str) -> Action:
        return self._core.action("GatewayRegistry", "reactivate", check_id(identifier))

    def set_signer(self, identifier: str, signer: str) -> Action:
        """The key that signs vouchers and posts checkpoints, from the next epoch on."""
        return self._core.action("GatewayRegistry", "setSigner", check_id(identifier), read_address(signer))

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

    async def effective_stake(self, identifier: str) -> int:
        """Stake less what open challenges hold."""
        return int(await self._core.view("GatewayStaking", "effectiveStake", check_id(identifier)))

    async def is_active(self, identifier: str) -> bool:
        return bool(await self._core.view("GatewayRegistry", "isActive", check_id(identifier)))

    async def status(self, identifier: str) -> GatewayStatus:
        """Raises `UnknownGateway`."""
        key = key_of(check_id(identifier))
        owner, epoch = await self._core.views(
            [("GatewayRegistry", "ownerOf", (key,)), ("EpochController", "currentEpoch", ())]
        )
        if owner == checksummed(ZERO_ADDRESS):
            raise UnknownGateway(key)
        gateway, active, stake, effective, least, overdrawn, credit, jailed, signer = await self._core.views(
            [
                ("GatewayRegistry", "gateway", (identifier,)),
                ("GatewayRegistry", "isActive", (identifier,)),
                ("GatewayStaking", "stakeOf", (identifier,)),
                ("GatewayStaking", "effectiveStake", (identifier,)),
                ("GatewayStaking", "minGatewayStake", ()),
                ("GatewayStaking", "isOverdrawn", (key,)),
                ("Escrow", "creditOf", (key,)),
                ("Slashing", "gatewayJailedUntil", (key,)),
                ("GatewayRegistry", "signerAt", (key, epoch)),
            ]
        )
        return GatewayStatus(
            id=identifier,
            owner=owner,
            metadata=gateway.metadata,
            active=active,
            deactivated=gateway.deactivated,
            whitelisted=gateway.whitelisted,
            overdrawn=overdrawn,
            jailed_until=jailed,
            stake=stake.amount,
            effective_stake=effective,
            min_stake=least,
            unlock_epoch=stake.unlock_epoch,
            wind_down_end=stake.wind_down_end,
            credit=credit,
            signer=signer,
        )


class Escrow:
    """Escrow: a developer's deposit, and a gateway's credit."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def deposit(self, amount: int, payer: str | None = None) -> Action:
        """Deposit `amount` wei for ourselves, or for another payer."""
        spend = self._spend(amount)
        if payer is None:
            return self._core.action("Escrow", "deposit", amount, spend=spend)
        return self._core.action("Escrow", "depositFor", read_address(payer), amount, spend=spend)

    def thaw(self, amount: int) -> Action:
        """Mark `amount` wei more for withdrawal; the clock starts again for all that is thawing."""
        return self._core.action("Escrow", "thaw", check_amount(amount))

    def cancel_thaw(self) -> Action:
        return self._core.action("Escrow", "cancelThaw")

    def withdraw(self) -> Action:
        """Take out what has thawed."""
        return self._core.action("Escrow", "withdraw")

    def authorize_signer(self, signer: str) -> Action:
        """Let another key sign vouchers for us."""
        return self._core.action("Escrow", "authorizeSigner", read_address(signer))

    def thaw_signer(self, signer: str) -> Action:
        return self._core.action("Escrow", "thawSigner", read_address(signer))

    def redeem(self, voucher: PaymentVoucher, signature: bytes) -> Action:
        """Pay what a voucher still promises, as far as the deposit goes, to the gateway's credit."""
        return self._core.action("Escrow", "redeem", voucher, signature)

    def redeem_batch(self, vouchers: Sequence[PaymentVoucher], signatures: Sequence[bytes]) -> Action:
        return self._core.action("Escrow", "redeemBatch", list(vouchers), list(signatures))

    def top_up_credit(self, gateway_id: str, amount: int) -> Action:
        """Add `amount` wei of ours to a gateway's credit."""
        check_id(gateway_id)
        return self._core.action("Escrow", "topUpCredit", gateway_id, amount, spend=self._spend(amount))

    def withdraw_credit(self, gateway_id: str) -> Action:
        """Take out the credit of a gateway that has unstaked."""
        return self._core.action("Escrow", "withdrawCredit", check_id(gateway_id))

    async def balance(self, payer: str | None = None) -> Deposit:
        who = payer or self._core.address
        deposit, available = await self._core.views([("Escrow", "depositOf", (who,)), ("Escrow", "available", (who,))])
        return Deposit(who, deposit.balance, available, deposit.thawing, deposit.thaw_end)

    async def credit_of(self, gateway_id: str) -> int:
        return int(await self._core.view("Escrow", "creditOf", key_of(check_id(gateway_id))))

    async def redeemed(self, payer: str, gateway_id: str) -> int:
        """Wei paid, ever, from a payer to a gateway."""
        return int(await self._core.view("Escrow", "redeemed", payer, key_of(check_id(gateway_id))))

    def _spend(self, amount: int) -> Spend:
        return Spend(self._core.deployment.address("Escrow"), check_amount(amount))
