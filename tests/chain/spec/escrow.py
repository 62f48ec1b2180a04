"""Developer deposits, cumulative payment vouchers, and the gateways' credit that vouchers turn deposits into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chain.contract_errors import (
    EmptyDeposit,
    GatewayStillStaked,
    InsufficientBalance,
    InvalidSignature,
    LengthMismatch,
    NothingDue,
    NothingThawing,
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
class Deposit:
    """`thawing` ≤ `balance`; it can be withdrawn from epoch `thaw_end` on."""

    balance: int = 0
    thawing: int = 0
    thaw_end: int = 0


class Escrow(Stoppable):
    def __init__(self, ledger: Ledger, address: Address, owner: Address, chain_id: int) -> None:
        super().__init__(ledger, address, owner)
        self.domain = Domain(chain_id, address)
        self._deposits: Table[Address, Deposit] = Table(ledger.journal, Deposit())
        self._signers: Table[tuple[Address, Address], int] = Table(ledger.journal, 0)
        self._redeemed: Table[tuple[Address, Bytes32], int] = Table(ledger.journal, 0)
        self._credits: Table[Bytes32, int] = Table(ledger.journal, 0)

    @property
    def thaw_epochs(self) -> int:
        """One epoch longer than the challenge window."""
        return self.ledger.epochs.epoch_reward_delay + 1

    def deposit_of(self, payer: Address) -> Deposit:
        return self._deposits[payer]

    def available(self, payer: Address) -> int:
        return self._deposits[payer].balance - self._deposits[payer].thawing

    def credit_of(self, gateway: Bytes32) -> int:
        return self._credits[gateway]

    def redeemed(self, payer: Address, gateway: Bytes32) -> int:
        return self._redeemed[payer, gateway]

    def signer_until(self, payer: Address, signer: Address) -> int:
        return self._signers[payer, signer]

    def owed(self) -> int:
        """All that this contract must hold."""
        deposits = sum(deposit.balance for _, deposit in self._deposits.items())
        return deposits + sum(credit for _, credit in self._credits.items())

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
    def thaw(self, tx: Tx, amount: int) -> None:
        """Marks `amount` more for withdrawal; the clock restarts for all that thaws. Vouchers can still take it."""
        if not amount:
            raise ZeroAmount()
        own = self._deposits[tx.sender]
        free = own.balance - own.thawing
        if amount > free:
            raise InsufficientBalance(amount, free)
        end = self.epoch(tx) + self.thaw_epochs
        self._deposits[tx.sender] = replace(own, thawing=own.thawing + amount, thaw_end=end)

    @call
    def cancel_thaw(self, tx: Tx) -> None:
        own = self._deposits[tx.sender]
        if not own.thawing:
            raise NothingThawing(checksummed(tx.sender))
        self._deposits[tx.sender] = Deposit(own.balance)

    @call
    def withdraw(self, tx: Tx) -> int:
        own = self._deposits[tx.sender]
        if not own.thawing:
            raise NothingThawing(checksummed(tx.sender))
        if self.epoch(tx) < own.thaw_end:
            raise StillThawing(own.thaw_end)
        self._deposits[tx.sender] = Deposit(own.balance - own.thawing)
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

    @call
    def redeem(self, tx: Tx, voucher: PaymentVoucher, signature: bytes) -> int:
        """Wei moved to the gateway's credit; what the deposit lacks stays due."""
        self._check(tx, voucher, signature)
        if self._due(voucher) <= 0:
            raise NothingDue(checksummed(voucher.payer), voucher.gateway)
        if not self._deposits[voucher.payer].balance:
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
        key = key_of(gateway_id)
        self.ledger.gateways.known(key)
        if not amount:
            raise ZeroAmount()
        self._credits[key] += amount
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)

    @call
    def withdraw_credit(self, tx: Tx, gateway_id: str) -> int:
        key, _ = self.ledger.gateways.mine(tx, gateway_id)
        if self.ledger.gateway_staking.stake_of_key(key).amount or self.ledger.settlement.open_challenges_of(key):
            raise GatewayStillStaked(key)
        amount = self._credits[key]
        if not amount:
            raise ZeroAmount()
        self._credits[key] = 0
        self.ledger.token.move(self.address, tx.sender, amount)
        return amount

    # --- what settlement uses ---

    def spend_credit(self, gateway: Bytes32, amount: int, to: Address) -> int:
        """Moves up to `amount` of the credit to `to`; returns what was taken."""
        taken = min(amount, self._credits[gateway])
        self._credits[gateway] -= taken
        self.ledger.token.move(self.address, to, taken)
        return taken

    def return_credit(self, gateway: Bytes32, amount: int, source: Address) -> None:
        self.ledger.token.move(source, self.address, amount)
        self._credits[gateway] += amount

    def _deposit(self, tx: Tx, payer: Address, amount: int) -> None:
        if not amount:
            raise ZeroAmount()
        own = self._deposits[payer]
        self._deposits[payer] = replace(own, balance=own.balance + uint128(amount))
        self.ledger.token.pull(self.address, tx.sender, self.address, amount)

    def _check(self, tx: Tx, voucher: PaymentVoucher, signature: bytes) -> None:
        self.ledger.gateways.known(voucher.gateway)
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
        own = self._deposits[voucher.payer]
        paid = min(max(self._due(voucher), 0), own.balance)
        balance = own.balance - paid
        self._deposits[voucher.payer] = replace(own, balance=balance, thawing=min(own.thawing, balance))
        self._redeemed[voucher.payer, voucher.gateway] += paid
        self._credits[voucher.gateway] += paid
        return paid
