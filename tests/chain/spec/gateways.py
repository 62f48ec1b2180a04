"""The registry of gateways, and the keys that sign for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chain.contract_errors import (
    AlreadyDeactivated,
    AutoWhitelistOff,
    GatewayIdTaken,
    NotDeactivated,
    NotGatewayOwner,
    NothingToClaim,
    SignerInUse,
    UnknownGateway,
    ZeroAddress,
    ZeroAmount,
)
from chain.primitives import ZERO_ADDRESS, ZERO_HASH, Address, Bytes32, checksummed, key_of
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


@dataclass(frozen=True, slots=True)
class Gateway:
    """`signers`: who signs vouchers and posts checkpoints, with the epoch from which each does."""

    owner: Address
    deactivated: bool
    whitelisted: bool
    id: str
    metadata: str
    signers: tuple[tuple[int, Address], ...]


class GatewayRegistry(Stoppable):
    def __init__(self, ledger: Ledger, address: Address, owner: Address, chain_id: int) -> None:
        super().__init__(ledger, address, owner)
        self.domain = Domain(chain_id, address)
        self._auto_whitelist = Cell(ledger.journal, True)
        self._gateways: Table[Bytes32, Gateway | None] = Table(ledger.journal, None)
        self._of_signer: Table[Address, Bytes32] = Table(ledger.journal, ZERO_HASH)

    @property
    def auto_whitelist(self) -> bool:
        return self._auto_whitelist.value

    def known(self, key: Bytes32) -> Gateway:
        found = self._gateways[key]
        if found is None:
            raise UnknownGateway(key)
        return found

    def gateway(self, identifier: str) -> Gateway:
        return self.known(key_of(identifier))

    def owner_of(self, key: Bytes32) -> Address:
        found = self._gateways[key]
        return found.owner if found else ZERO_ADDRESS

    def signer_at(self, key: Bytes32, epoch: int) -> Address:
        found = self._gateways[key]
        return at_epoch(found.signers, epoch, ZERO_ADDRESS) if found else ZERO_ADDRESS

    def gateway_of_signer(self, signer: Address) -> Bytes32:
        """The gateway that `signer` signs or ever signed for; zero if none."""
        return self._of_signer[signer]

    def is_active(self, identifier: str) -> bool:
        return self.is_active_key(key_of(identifier))

    def is_active_key(self, key: Bytes32) -> bool:
        """Known, not deactivated, whitelisted, not overdrawn."""
        gateway = self._gateways[key]
        overdrawn = self.ledger.gateway_staking.is_overdrawn(key)
        return gateway is not None and not gateway.deactivated and gateway.whitelisted and not overdrawn

    def is_eligible(self, identifier: str, block: int) -> bool:
        return self.is_eligible_key(key_of(identifier), block)

    def is_eligible_key(self, key: Bytes32, block: int) -> bool:
        """Active, with the minimum of effective stake, neither winding down nor jailed."""
        staking = self.ledger.gateway_staking
        return (
            self.is_active_key(key)
            and staking.effective_stake_of_key(key) >= staking.min_gateway_stake
            and not staking.stake_of_key(key).wind_down_end
            and not self.ledger.slashing.is_gateway_jailed(key, block)
        )

    @call
    def register(self, tx: Tx, identifier: str, metadata: str) -> None:
        self.not_paused()
        self._register(tx, identifier, metadata)

    @call
    def register_and_stake(self, tx: Tx, identifier: str, metadata: str, amount: int) -> None:
        """Uses what the caller has sent before, pulls the rest, then stakes: paused staking is noticed last."""
        self.not_paused()
        self._register(tx, identifier, metadata)
        if not self.auto_whitelist:
            raise AutoWhitelistOff()
        if not amount:
            raise ZeroAmount()
        token = self.ledger.token
        sent = min(amount, token.sent_to(tx.sender))
        token.take_sent(Tx(self.address, tx.block), tx.sender, sent)
        token.pull(self.address, tx.sender, self.address, amount - sent)
        self.ledger.gateway_staking.stake_from_registry(tx, identifier, amount)

    @call
    def return_sent(self, tx: Tx) -> int:
        """Gives back what the caller sent here and has not staked; wei."""
        token = self.ledger.token
        amount = token.sent_to(tx.sender)
        if not amount:
            raise NothingToClaim()
        token.take_sent(Tx(self.address, tx.block), tx.sender, amount)
        token.move(self.address, tx.sender, amount)
        return amount

    @call
    def deactivate(self, tx: Tx, identifier: str) -> None:
        key, gateway = self.mine(tx, identifier)
        if gateway.deactivated:
            raise AlreadyDeactivated(key)
        self._gateways[key] = replace(gateway, deactivated=True)

    @call
    def reactivate(self, tx: Tx, identifier: str) -> None:
        key, gateway = self.mine(tx, identifier)
        if not gateway.deactivated:
            raise NotDeactivated(key)
        self._gateways[key] = replace(gateway, deactivated=False)

    @call
    def update_metadata(self, tx: Tx, identifier: str, metadata: str) -> None:
        key, gateway = self.mine(tx, identifier)
        check_metadata(metadata)
        self._gateways[key] = replace(gateway, metadata=metadata)

    @call
    def set_signer(self, tx: Tx, identifier: str, signer: Address, consent: bytes) -> None:
        """`consent`: the signer's own signature over a `SignerConsent`; nothing is asked of the owner's own key."""
        key, _ = self.mine(tx, identifier)
        if signer == ZERO_ADDRESS:
            raise ZeroAddress()
        require_consent(self.domain, key, tx.sender, signer, consent)
        if self._of_signer[signer] not in (ZERO_HASH, key):
            raise SignerInUse(checksummed(signer))
        self._set_signer(key, signer, self.epoch(tx) + 1)

    @call
    def set_whitelisted(self, tx: Tx, identifier: str, whitelisted: bool) -> None:
        self.only_owner(tx)
        key = key_of(identifier)
        self._gateways[key] = replace(self.known(key), whitelisted=whitelisted)

    @call
    def set_auto_whitelist(self, tx: Tx, enabled: bool) -> None:
        self.only_owner(tx)
        self._auto_whitelist.value = enabled

    def mine(self, tx: Tx, identifier: str) -> tuple[Bytes32, Gateway]:
        """The caller's gateway of this id."""
        key = key_of(identifier)
        gateway = self.known(key)
        if gateway.owner != tx.sender:
            raise NotGatewayOwner(key, checksummed(tx.sender))
        return key, gateway

    def _register(self, tx: Tx, identifier: str, metadata: str) -> None:
        check_id(identifier)
        check_metadata(metadata)
        key = key_of(identifier)
        if self._gateways[key] is not None:
            raise GatewayIdTaken(key)
        self._gateways[key] = Gateway(tx.sender, False, self.auto_whitelist, identifier, metadata, ())
        if self._of_signer[tx.sender] == ZERO_HASH:
            self._set_signer(key, tx.sender, self.epoch(tx))

    def _set_signer(self, key: Bytes32, signer: Address, since: int) -> None:
        gateway = self.known(key)
        self._of_signer[signer] = key
        self._gateways[key] = replace(gateway, signers=with_change(gateway.signers, since, signer))
