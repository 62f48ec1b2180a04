"""The registry of providers: who provides which model and where, who signs, and the claim for all of an owner's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    AlreadyDeactivated,
    AutoWhitelistOff,
    ModelNotEnabled,
    NoProvidersOwned,
    NotDeactivated,
    NotProviderOwner,
    ProviderIdTaken,
    TooManyProviders,
    UnknownModel,
    UnknownProvider,
    ZeroAddress,
)
from chain.errors import ContractError
from chain.primitives import ZERO_ADDRESS, Address, Bytes32, checksummed, key_of
from chain.vouchers import Domain
from tests.chain.spec.base import (
    Stoppable,
    Tx,
    at_epoch,
    call,
    check_id,
    check_metadata,
    require_consent,
    with_change,
)
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

MAX_PROVIDERS_PER_OWNER: Final = 100


@dataclass(frozen=True, slots=True)
class Provider:
    """`signers`: the receipt keys, with the epoch from which each holds."""

    owner: Address
    model_id: int
    deactivated: bool
    whitelisted: bool
    id: str
    metadata: str
    signers: tuple[tuple[int, Address], ...]


class ProviderRegistry(Stoppable):
    def __init__(self, ledger: Ledger, address: Address, owner: Address, chain_id: int) -> None:
        super().__init__(ledger, address, owner)
        self.domain = Domain(chain_id, address)
        self._auto_whitelist = Cell(ledger.journal, True)
        self._providers: Table[Bytes32, Provider | None] = Table(ledger.journal, None)
        self._owned: Table[Address, tuple[str, ...]] = Table(ledger.journal, ())

    @property
    def auto_whitelist(self) -> bool:
        return self._auto_whitelist.value

    def by_key(self, key: Bytes32) -> Provider | None:
        return self._providers[key]

    def known(self, key: Bytes32) -> Provider:
        found = self._providers[key]
        if found is None:
            raise UnknownProvider(key)
        return found

    def provider(self, identifier: str) -> Provider:
        return self.known(key_of(identifier))

    def providers_of(self, owner: Address) -> tuple[str, ...]:
        """Ids in order of registration."""
        return self._owned[owner]

    def signer_at(self, key: Bytes32, epoch: int) -> Address:
        provider = self._providers[key]
        return at_epoch(provider.signers, epoch, ZERO_ADDRESS) if provider else ZERO_ADDRESS

    def is_active(self, identifier: str) -> bool:
        """Known, not deactivated, staked, whitelisted, and of an enabled model."""
        key = key_of(identifier)
        provider = self._providers[key]
        if provider is None:
            return False
        model = self.ledger.models.model(provider.model_id)
        stake = self.ledger.router.pool(provider.model_id).stake_of_key(key).amount
        return not provider.deactivated and provider.whitelisted and model.enabled and stake >= model.stake_amount

    def is_eligible(self, identifier: str, block: int) -> bool:
        """Active, and not jailed."""
        return self.is_active(identifier) and not self.ledger.slashing.is_provider_jailed(key_of(identifier), block)

    @call
    def register(self, tx: Tx, identifier: str, model_id: int, metadata: str) -> None:
        self.not_paused()
        self._register(tx, identifier, model_id, metadata)

    @call
    def register_and_stake(self, tx: Tx, identifier: str, model_id: int, metadata: str) -> None:
        """The registry pulls the tokens first and then stakes them, so a paused router is noticed last."""
        self.not_paused()
        self._register(tx, identifier, model_id, metadata)
        if not self.auto_whitelist:
            raise AutoWhitelistOff()
        amount = self.ledger.models.model(model_id).stake_amount
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)
        self.ledger.router.pool(model_id).stake_from_registry(tx, identifier)

    @call
    def claim_rewards_cluster(self, tx: Tx, first: int, last: int) -> tuple[int, tuple[str, ...]]:
        """Wei paid in all, and the ids whose claim failed."""
        owned = self._owned[tx.sender]
        if not owned:
            raise NoProvidersOwned(checksummed(tx.sender))
        paid, failed = 0, []
        for identifier in owned:
            pool = self.ledger.router.pool(self.provider(identifier).model_id)
            try:
                paid += pool.claim_rewards(tx, identifier, first, last)
            except ContractError:
                failed.append(identifier)
        return paid, tuple(failed)

    @call
    def deactivate(self, tx: Tx, identifier: str) -> None:
        key, provider = self._mine(tx, identifier)
        if provider.deactivated:
            raise AlreadyDeactivated(key)
        self._providers[key] = replace(provider, deactivated=True)

    @call
    def reactivate(self, tx: Tx, identifier: str) -> None:
        key, provider = self._mine(tx, identifier)
        if not provider.deactivated:
            raise NotDeactivated(key)
        self._providers[key] = replace(provider, deactivated=False)

    @call
    def update_metadata(self, tx: Tx, identifier: str, metadata: str) -> None:
        key, provider = self._mine(tx, identifier)
        check_metadata(metadata)
        self._providers[key] = replace(provider, metadata=metadata)

    @call
    def set_signer(self, tx: Tx, identifier: str, signer: Address, consent: bytes) -> None:
        """`consent`: the signer's own signature over a `SignerConsent`; nothing is asked of the owner's own key."""
        key, provider = self._mine(tx, identifier)
        if signer == ZERO_ADDRESS:
            raise ZeroAddress()
        require_consent(self.domain, key, tx.sender, signer, consent)
        self._providers[key] = replace(provider, signers=with_change(provider.signers, self.epoch(tx) + 1, signer))

    @call
    def set_whitelisted(self, tx: Tx, identifier: str, whitelisted: bool) -> None:
        self.only_owner(tx)
        key = key_of(identifier)
        self._providers[key] = replace(self.known(key), whitelisted=whitelisted)

    @call
    def set_auto_whitelist(self, tx: Tx, enabled: bool) -> None:
        self.only_owner(tx)
        self._auto_whitelist.value = enabled

    def _register(self, tx: Tx, identifier: str, model_id: int, metadata: str) -> None:
        check_id(identifier)
        check_metadata(metadata)
        key = key_of(identifier)
        if self._providers[key] is not None:
            raise ProviderIdTaken(key)
        if not self.ledger.models.exists(model_id):
            raise UnknownModel(model_id)
        if not self.ledger.models.model(model_id).enabled:
            raise ModelNotEnabled(model_id)
        owned = self._owned[tx.sender]
        if len(owned) >= MAX_PROVIDERS_PER_OWNER:
            raise TooManyProviders(checksummed(tx.sender), MAX_PROVIDERS_PER_OWNER)
        self._owned[tx.sender] = (*owned, identifier)
        self._providers[key] = Provider(
            owner=tx.sender,
            model_id=model_id,
            deactivated=False,
            whitelisted=self.auto_whitelist,
            id=identifier,
            metadata=metadata,
            signers=((self.epoch(tx), tx.sender),),
        )

    def _mine(self, tx: Tx, identifier: str) -> tuple[Bytes32, Provider]:
        key = key_of(identifier)
        provider = self.known(key)
        if provider.owner != tx.sender:
            raise NotProviderOwner(key, checksummed(tx.sender))
        return key, provider
