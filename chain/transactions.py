"""Transactions of type 2 (EIP-1559): what is signed, and its bytes and hash. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import rlp
from coincurve import PrivateKey

from chain.primitives import keccak256

TYPE = b"\x02"
INTRINSIC_GAS = 21_000


@dataclass(frozen=True, slots=True)
class Fees:
    """Most per gas in all, and the tip in it, in wei."""

    max_fee: int
    priority_fee: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """An unsigned transaction. `to` is twenty bytes, or empty to create a contract; amounts in wei."""

    chain_id: int
    nonce: int
    fees: Fees
    gas: int
    to: bytes
    value: int
    data: bytes

    def fields(self) -> list[object]:
        return [
            self.chain_id,
            self.nonce,
            self.fees.priority_fee,
            self.fees.max_fee,
            self.gas,
            self.to,
            self.value,
            self.data,
            [],
        ]


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """The bytes to broadcast and their hash, both known before anything is sent."""

    raw: bytes
    hash: bytes


def sign(transaction: Transaction, key: PrivateKey) -> SignedTransaction:
    """Deterministic: the same transaction and key give the same bytes (RFC 6979)."""
    fields = transaction.fields()
    signature = key.sign_recoverable(keccak256(TYPE + rlp.encode(fields)), hasher=None)
    parts = [signature[64], int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])]
    raw = TYPE + rlp.encode([*fields, *parts])
    return SignedTransaction(raw, keccak256(raw))
