"""Providers: `client.providers` is the ProviderRegistry and, found through the Router, each model's ProviderStaking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chain.client.actions import Action, Prepared, Result, Spend
from chain.client.calls.consent import sign_consent
from chain.client.checks import check_id, check_provider_metadata, check_range
from chain.client.core import Core
from chain.contract_errors import NothingToClaim, NotProviderOwner, UnknownProvider
from chain.contract_errors.decode import decode_revert
from chain.deploy import read_address
from chain.errors import ContractError, InvalidArgument
from chain.primitives import ZERO_ADDRESS, checksummed, key_of
from chain.text import Unreadable


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """A provider and its stake. `unlock_epoch` is 0 without a stake; amounts in wei.

    `active` is registered, not deactivated, staked enough, whitelisted and its model enabled; `eligible` is what this
    network works with: active and not jailed. Metadata that cannot be shown is a `chain.text.Unreadable`.
    """

    id: str
    owner: str
    model_id: int
    metadata: str
    active: bool
    eligible: bool
    deactivated: bool
    whitelisted: bool
    jailed_until: int
    stake: int
    needed_stake: int
    unlock_epoch: int
    signer: str
    pool: str


CLUSTER_GAS = 15_000_000
"""What one cluster claim may need: half of the smallest block that chains have."""
GAS_A_CLAIM = 7_500
"""Of one provider and one epoch, at most; measured in tests/chain/shells/test_cluster.py."""
GAS_A_PROVIDER = 120_000
"""Of one provider in a call, whatever the epochs: reading it, its pool, a transfer, an event."""
MOST_EPOCHS = 512
"""In one claim, by the contracts."""


@dataclass(frozen=True, slots=True)
class ClusterClaim:
    """What a claim for all providers of an owner paid, in wei, and why each id that got nothing did."""

    amount: int
    failed: dict[str, ContractError]


def provider_metadata(url: str, name: str | None = None) -> str:
    """The JSON that a provider's metadata is: its `url`, perhaps its `name`. Raises `InvalidArgument`."""
    value = {"url": url} if name is None else {"url": url, "name": name}
    return check_provider_metadata(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def cluster_ranges(providers: int, first: int, last: int) -> list[tuple[int, int]]:
    """Epochs `first … last` cut so that a claim for so many providers stays below `CLUSTER_GAS`. Pure."""
    per_epoch = GAS_A_CLAIM * max(1, providers)
    size = max(1, min(MOST_EPOCHS, (CLUSTER_GAS - GAS_A_PROVIDER * providers) // per_epoch))
    return [(start, min(last, start + size - 1)) for start in range(first, last + 1, size)]


class Providers:
    """Register, stake, unstake and claim as a provider."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # --- the registry ---

    def register(self, identifier: str, model_id: int, metadata: str) -> Action:
        """Register a provider of a model; it stakes later. `metadata`: see `provider_metadata`."""
        check_id(identifier)
        return self._core.action(
            "ProviderRegistry", "register", identifier, model_id, check_provider_metadata(metadata)
        )

    def register_and_stake(self, identifier: str, model_id: int, metadata: str) -> Action:
        """Register and stake the model's `modelStakeAmount` in one transaction."""
        call = self._core.call(
            "ProviderRegistry", "registerAndStake", check_id(identifier), model_id, check_provider_metadata(metadata)
        )

        async def prepare() -> Prepared:
            # An unknown model has no stake amount: the contract says so when the call is estimated.
            known = await self._core.view("ModelRegistry", "exists", model_id)
            if not known:
                return Prepared(call)
            amount = await self._core.view("ModelRegistry", "modelStakeAmount", model_id)
            await self._core.pool(model_id)  # whose events the result will hold
            return Prepared(call, Spend(self._core.deployment.address("ProviderRegistry"), amount))

        return Action(self._core, prepare)

    def update_metadata(self, identifier: str, metadata: str) -> Action:
        check_id(identifier)
        return self._core.action("ProviderRegistry", "updateMetadata", identifier, check_provider_metadata(metadata))

    def deactivate(self, identifier: str) -> Action:
        return self._core.action("ProviderRegistry", "deactivate", check_id(identifier))

    def reactivate(self, identifier: str) -> Action:
        return self._core.action("ProviderRegistry", "reactivate", check_id(identifier))

    def set_signer(self, identifier: str, signer: str, consent: bytes = b"") -> Action:
        """The key that signs receipts, from the next epoch on.

        `consent` is what the signer's own `sign_consent` gives; it is not needed where the signer is the caller.
        """
        return self._core.action("ProviderRegistry", "setSigner", check_id(identifier), read_address(signer), consent)

    def sign_consent(self, identifier: str, owner: str) -> bytes:
        """Our consent to sign for a provider of `owner`; nothing is sent."""
        return sign_consent(self._core, "ProviderRegistry", identifier, owner)

    def set_whitelisted(self, identifier: str, whitelisted: bool) -> Action:
        """Owner of the contract."""
        return self._core.action("ProviderRegistry", "setWhitelisted", check_id(identifier), whitelisted)

    def set_auto_whitelist(self, enabled: bool) -> Action:
        """Owner of the contract."""
        return self._core.action("ProviderRegistry", "setAutoWhitelist", enabled)

    def claim_rewards_cluster(self, first: int, last: int) -> Action:
        """Claim epochs `first … last` for every provider of the caller's in one call; see `cluster_claims`."""
        check_range(first, last)
        return self._core.action("ProviderRegistry", "claimRewardsCluster", first, last)

    async def cluster_claims(self, first: int, last: int) -> list[Action]:
        """Claims for every provider of the caller's that together cover epochs `first … last`, however many.

        Each stays below `CLUSTER_GAS`; parts in which no provider has anything to claim are left out, but for the last.
        Raises `InvalidArgument`.
        """
        if not 1 <= first <= last < 2**64:
            raise InvalidArgument(f"epochs {first} … {last} are no range: from 1, ascending", argument="epochs")
        owned = await self.owned()
        pools: dict[str, list[str]] = {}
        for each in owned:
            if not isinstance(each, Unreadable):
                pools.setdefault((await self._find(each))[1], []).append(each)
        parts = cluster_ranges(len(owned), first, last)
        due = [part for part in parts if await self._anything(pools, *part)]
        return [self.claim_rewards_cluster(*part) for part in due or parts[-1:]]

    async def _anything(self, pools: Mapping[str, Sequence[str]], first: int, last: int) -> bool:
        for pool, owned in pools.items():
            calls = [("ProviderStaking", "viewRewards", (each, first, last)) for each in owned]
            if any(await self._core.try_views(calls, at=pool)):  # also an error: the claim itself will say why
                return True
        return False

    @staticmethod
    def cluster_claim(*results: Result) -> ClusterClaim:
        """What cluster claims paid together and which ids got nothing, from their events. Raises `BadAnswer`.

        An id that had nothing to claim in one part and was paid in another has not failed.
        """
        amount, paid = 0, set()
        failed: dict[str, ContractError] = {}
        for result in results:
            amount += result.event("RewardClaimedForCluster").arguments.amount
            for event in result.events:
                if event.name == "ProviderClaimedRewards":
                    paid.add(event.arguments.id)
                elif event.name == "ClusterClaimFailed":
                    error = decode_revert(event.arguments.reason)
                    if not isinstance(failed.get(event.arguments.id, error), NothingToClaim):
                        continue  # a worse reason stands already
                    failed[event.arguments.id] = error
        unpaid = {each: why for each, why in failed.items() if not (each in paid and isinstance(why, NothingToClaim))}
        return ClusterClaim(amount, unpaid)

    # --- staking, in the model's pool ---

    def stake_for_provider(self, identifier: str) -> Action:
        """Stake what is missing to the model's `modelStakeAmount`."""
        check_id(identifier)

        async def prepare() -> Prepared:
            model_id, pool = await self._find(identifier)
            needed, stake = (
                await self._core.view("ModelRegistry", "modelStakeAmount", model_id),
                await self._core.view("ProviderStaking", "stakeOf", identifier, at=pool),
            )
            missing = max(0, needed - stake.amount)
            call = self._core.call("ProviderStaking", "stakeForProvider", identifier, at=pool)
            return Prepared(call, Spend(pool, missing) if missing else None)

        return Action(self._core, prepare)

    def unstake_provider(self, identifier: str) -> Action:
        """Take the whole stake back, after its lock."""
        return self._in_pool(identifier, "unstakeProvider")

    def claim_rewards(self, identifier: str, first: int, last: int) -> Action:
        """Claim epochs `first … last` (both included), at most up to the claimable epoch."""
        check_range(first, last)
        return self._in_pool(identifier, "claimRewards", first, last)

    async def view_rewards(self, identifier: str, first: int, last: int) -> int:
        """Wei that `claim_rewards` would pay now."""
        check_range(first, last)
        _, pool = await self._find(identifier)
        return int(await self._core.view("ProviderStaking", "viewRewards", identifier, first, last, at=pool))

    async def contribution(self, identifier: str, epoch: int) -> tuple[int, int]:
        """Units proven for an epoch, and the wei that wait to be claimed for them."""
        _, pool = await self._find(identifier)
        found = await self._core.view("ProviderStaking", "contribution", identifier, epoch, at=pool)
        units, unclaimed = found.values()
        return units, unclaimed

    async def status(self, identifier: str) -> ProviderStatus:
        """Raises `UnknownProvider`."""
        model_id, pool = await self._find(identifier)
        key = key_of(identifier)
        epoch = await self._core.view("EpochController", "currentEpoch")
        provider, active, eligible, needed, jailed, signer = await self._core.views(
            [
                ("ProviderRegistry", "provider", (identifier,)),
                ("ProviderRegistry", "isActive", (identifier,)),
                ("ProviderRegistry", "isEligible", (identifier,)),
                ("ModelRegistry", "modelStakeAmount", (model_id,)),
                ("Slashing", "providerJailedUntil", (key,)),
                ("ProviderRegistry", "signerAt", (key, epoch)),
            ]
        )
        stake = await self._core.view("ProviderStaking", "stakeOf", identifier, at=pool)
        return ProviderStatus(
            id=identifier,
            owner=provider.owner,
            model_id=model_id,
            metadata=provider.metadata,
            active=active,
            eligible=eligible,
            deactivated=provider.deactivated,
            whitelisted=provider.whitelisted,
            jailed_until=jailed,
            stake=stake.amount,
            needed_stake=needed,
            unlock_epoch=stake.unlock_epoch,
            signer=signer,
            pool=pool,
        )

    async def is_eligible(self, identifier: str) -> bool:
        """Active and not jailed."""
        return bool(await self._core.view("ProviderRegistry", "isEligible", check_id(identifier)))

    async def owned(self, owner: str | None = None) -> list[str]:
        """Ids of the providers that an address owns."""
        return list(await self._core.view("ProviderRegistry", "providersOf", owner or self._core.address))

    async def _find(self, identifier: str) -> tuple[int, str]:
        """Model and pool of a provider. Raises `UnknownProvider`."""
        key = key_of(check_id(identifier))
        owner, model_id = (await self._core.view("ProviderRegistry", "ownerAndModel", key)).values()
        if owner == checksummed(ZERO_ADDRESS):
            raise UnknownProvider(key)
        return model_id, await self._core.pool(model_id)

    def _in_pool(self, identifier: str, function: str, *arguments: int) -> Action:
        check_id(identifier)

        async def prepare() -> Prepared:
            _, pool = await self._find(identifier)
            return Prepared(self._core.call("ProviderStaking", function, identifier, *arguments, at=pool))

        return Action(self._core, prepare)


__all__ = [
    "ClusterClaim",
    "NotProviderOwner",
    "ProviderStatus",
    "Providers",
    "check_provider_metadata",
    "provider_metadata",
]
