"""Developers' tokens, free or reserved for one gateway; cumulative payment vouchers; and the gateways' credit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chain.contract_errors import (
    EmptyDeposit,
    GatewayInDebt,
    InsufficientBalance,
    InvalidSignature,
    LengthMismatch,
    NothingDue,
    NothingThawing,
    NotStaked,
    StillThawing,
    UnknownSigner,
    ZeroAddress,
    ZeroAmount,
)
from chain.primitives import MAX_UINT64, ZERO_ADDRESS, Address, Bytes32, checksummed, key_of
from chain.vouchers import Domain, PaymentVoucher, SignatureError, digest, recover
from tests.chain.spec.base import Stoppable, Tx, call, uint128
from tests.chain.spec.journal import Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger


@dataclass(frozen=True, slots=True)
class Held:
    """Wei of which `thawing` (≤ `amount`) can be taken out from epoch `thaw_end` on.

    A reservation of a payer for one gateway, or a gateway's credit.
    """

    amount: int = 0
    thawing: int = 0
    thaw_end: int = 0

    def thaw(self, amount: int, end: int) -> Held:
        """With `amount` more thawing; the clock restarts for all that thaws."""
        left = self.amount - self.thawing
        if amount > left:
            raise InsufficientBalance(amount, left)
        return replace(self, thawing=self.thawing + amount, thaw_end=end)

    def charge(self, amount: int) -> Held:
        """Less `amount`, of which what thaws is taken last."""
        left = self.amount - amount
        return replace(self, amount=left, thawing=min(self.thawing, left))

    def take_out(self, tx: Tx, current: int) -> Held:
        """Without what has thawed."""
        if not self.thawing:
            raise NothingThawing(checksummed(tx.sender))
        if current < self.thaw_end:
            raise StillThawing(self.thaw_end)
        return Held(self.amount - self.thawing)


class Escrow(Stoppable):
    def __init__(self, ledger: Ledger, address: Address, owner: Address, chain_id: int) -> None:
        super().__init__(ledger, address, owner)
        self.domain = Domain(chain_id, address)
        self._free: Table[Address, int] = Table(ledger.journal, 0)
        self._reservations: Table[tuple[Address, Bytes32], Held] = Table(ledger.journal, Held())
        self._signers: Table[tuple[Address, Address], int] = Table(ledger.journal, 0)
        self._redeemed: Table[tuple[Address, Bytes32], int] = Table(ledger.journal, 0)
        self._credits: Table[Bytes32, Held] = Table(ledger.journal, Held())

    @property
    def thaw_epochs(self) -> int:
        """Of reservations and signers: one epoch longer than the challenge window."""
        return self.ledger.epochs.epoch_reward_delay + 1

    @property
    def credit_thaw_epochs(self) -> int:
        """One epoch longer than a line's work can be enforced."""
        return self.ledger.epochs.epoch_reward_delay + 2

    def free_of(self, payer: Address) -> int:
        return self._free[payer]

    def reservation_of(self, payer: Address, gateway: Bytes32) -> Held:
        return self._reservations[payer, gateway]

    def reservations(self) -> dict[tuple[Address, Bytes32], Held]:
        """By payer and gateway."""
        return dict(self._reservations.items())

    def available(self, payer: Address, gateway: Bytes32) -> int:
        """Wei that only this gateway can take, and that do not thaw."""
        own = self._reservations[payer, gateway]
        return own.amount - own.thawing

    def credit_of(self, gateway: Bytes32) -> int:
        """Thawing or not."""
        return self._credits[gateway].amount

    def credit_state_of(self, gateway: Bytes32) -> Held:
        return self._credits[gateway]

    def credits(self) -> dict[Bytes32, Held]:
        return dict(self._credits.items())

    def redeemed(self, payer: Address, gateway: Bytes32) -> int:
        return self._redeemed[payer, gateway]

    def signer_until(self, payer: Address, signer: Address) -> int:
        return self._signers[payer, signer]

    def owed(self) -> int:
        """All that this contract must hold."""
        free = sum(amount for _, amount in self._free.items())
        held = sum(own.amount for table in (self._reservations, self._credits) for _, own in table.items())
        return free + held

    # --- developers ---

    @call
    def deposit(self, tx: Tx, amount: int) -> None:
        self.not_paused()
        self._deposit(tx, tx.sender, amount)

    @call
    def deposit_for(self, tx: Tx, payer: Address, amount: int) -> None:
        self.not_paused()
        if payer == ZERO_ADDRESS:
            raise ZeroAddress()
        self._deposit(tx, payer, amount)

    @call
    def withdraw(self, tx: Tx, amount: int) -> None:
        """What is free goes at once."""
        if not amount:
            raise ZeroAmount()
        self._take_free(tx.sender, amount)
        self.ledger.token.move(self.address, tx.sender, amount)

    @call
    def reserve(self, tx: Tx, gateway_id: str, amount: int) -> None:
        self.not_paused()
        key = self._gateway(gateway_id)
        if not amount:
            raise ZeroAmount()
        self._take_free(tx.sender, amount)
        self._reserve(tx, key, amount)

    @call
    def deposit_and_reserve(self, tx: Tx, gateway_id: str, amount: int) -> None:
        self.not_paused()
        key = self._gateway(gateway_id)
        if not amount:
            raise ZeroAmount()
        self._reserve(tx, key, amount)
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)

    @call
    def thaw(self, tx: Tx, gateway_id: str, amount: int) -> None:
        """Marks `amount` more for withdrawal. Vouchers can still take it."""
        place = tx.sender, self._gateway(gateway_id)
        if not amount:
            raise ZeroAmount()
        self._reservations[place] = self._reservations[place].thaw(amount, self.epoch(tx) + self.thaw_epochs)

    @call
    def cancel_thaw(self, tx: Tx, gateway_id: str) -> None:
        place = tx.sender, self._gateway(gateway_id)
        own = self._reservations[place]
        if not own.thawing:
            raise NothingThawing(checksummed(tx.sender))
        self._reservations[place] = Held(own.amount)

    @call
    def withdraw_reserved(self, tx: Tx, gateway_id: str) -> int:
        """Wei that have thawed, paid to the caller."""
        place = tx.sender, self._gateway(gateway_id)
        own = self._reservations[place]
        self._reservations[place] = own.take_out(tx, self.epoch(tx))
        self.ledger.token.move(self.address, tx.sender, own.thawing)
        return own.thawing

    @call
    def authorize_signer(self, tx: Tx, signer: Address) -> None:
        self.not_paused()
        if signer == ZERO_ADDRESS:
            raise ZeroAddress()
        self._signers[tx.sender, signer] = MAX_UINT64

    @call
    def thaw_signer(self, tx: Tx, signer: Address) -> None:
        until, current = self._signers[tx.sender, signer], self.epoch(tx)
        if until < current:
            raise UnknownSigner(checksummed(tx.sender), checksummed(signer))
        self._signers[tx.sender, signer] = min(until, current + self.thaw_epochs)

    # --- gateways ---

    @call
    def redeem(self, tx: Tx, voucher: PaymentVoucher, signature: bytes) -> int:
        """Wei moved from the reservation to the gateway's credit; what the reservation lacks stays due."""
        self._check(tx, voucher, signature)
        if self._due(voucher) <= 0:
            raise NothingDue(checksummed(voucher.payer), voucher.gateway)
        if not self._reservations[voucher.payer, voucher.gateway].amount:
            raise EmptyDeposit(checksummed(voucher.payer))
        return self._redeem(voucher)

    @call
    def redeem_batch(self, tx: Tx, vouchers: Sequence[PaymentVoucher], signatures: Sequence[bytes]) -> int:
        if len(vouchers) != len(signatures):
            raise LengthMismatch()
        paid = 0
        for voucher, signature in zip(vouchers, signatures, strict=True):
            self._check(tx, voucher, signature)
            paid += self._redeem(voucher)
        return paid

    @call
    def top_up_credit(self, tx: Tx, gateway_id: str, amount: int) -> None:
        key = self._gateway(gateway_id)
        if not amount:
            raise ZeroAmount()
        self._add_credit(key, uint128(amount))
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)

    @call
    def thaw_credit(self, tx: Tx, gateway_id: str, amount: int) -> None:
        """Fees, compensations and debts can still take it."""
        key, _ = self.ledger.gateways.mine(tx, gateway_id)
        if not amount:
            raise ZeroAmount()
        self._credits[key] = self._credits[key].thaw(amount, self.epoch(tx) + self.credit_thaw_epochs)

    @call
    def withdraw_credit(self, tx: Tx, gateway_id: str) -> int:
        """Wei of credit that have thawed, paid to the gateway's owner."""
        key, _ = self.ledger.gateways.mine(tx, gateway_id)
        own = self._credits[key]
        left = own.take_out(tx, self.epoch(tx))
        debt = self.ledger.settlement.debt_of(key)
        if debt:
            raise GatewayInDebt(key, debt)
        self._credits[key] = left
        self.ledger.token.move(self.address, tx.sender, own.thawing)
        return own.thawing

    # --- what settlement uses ---

    def spend_credit(self, gateway: Bytes32, amount: int, to: Address) -> int:
        """Moves up to `amount` of the credit to `to`; returns what was taken."""
        taken = min(amount, self._credits[gateway].amount)
        self._credits[gateway] = self._credits[gateway].charge(taken)
        self.ledger.token.move(self.address, to, taken)
        return taken

    def _gateway(self, identifier: str) -> Bytes32:
        key = key_of(identifier)
        self.ledger.gateways.known(key)
        return key

    def _deposit(self, tx: Tx, payer: Address, amount: int) -> None:
        if not amount:
            raise ZeroAmount()
        self._free[payer] += uint128(amount)
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)

    def _take_free(self, payer: Address, amount: int) -> None:
        free = self._free[payer]
        if amount > free:
            raise InsufficientBalance(amount, free)
        self._free[payer] = free - amount

    def _reserve(self, tx: Tx, gateway: Bytes32, amount: int) -> None:
        own = self._reservations[tx.sender, gateway]
        self._reservations[tx.sender, gateway] = replace(own, amount=own.amount + uint128(amount))

    def _add_credit(self, gateway: Bytes32, amount: int) -> None:
        own = self._credits[gateway]
        self._credits[gateway] = replace(own, amount=own.amount + amount)

    def _check(self, tx: Tx, voucher: PaymentVoucher, signature: bytes) -> None:
        self.ledger.gateways.known(voucher.gateway)
        if not self.ledger.gateway_staking.stake_of_key(voucher.gateway).amount:
            raise NotStaked(voucher.gateway)
        signed = digest(self.domain, voucher)
        try:
            signer = recover(signed, signature)
        except SignatureError:
            pass
        else:
            if signer == voucher.payer or self._signers[voucher.payer, signer] >= self.epoch(tx):
                return
        wallet = self.ledger.wallets.get(voucher.payer)
        if wallet is None or not wallet(signed, signature):
            raise InvalidSignature()

    def _due(self, voucher: PaymentVoucher) -> int:
        return voucher.cumulative_amount - self._redeemed[voucher.payer, voucher.gateway]

    def _redeem(self, voucher: PaymentVoucher) -> int:
        place = voucher.payer, voucher.gateway
        own = self._reservations[place]
        paid = min(max(self._due(voucher), 0), own.amount)
        self._reservations[place] = own.charge(paid)
        self._redeemed[place] += paid
        self._add_credit(voucher.gateway, paid)
        return paid
