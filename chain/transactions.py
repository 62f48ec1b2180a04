"""Transactions of type 2 (EIP-1559): what is signed, and what signing gives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

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

    def as_fields(self) -> dict[str, object]:
        """By the names that eth_account knows."""
        return {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "maxFeePerGas": self.fees.max_fee,
            "maxPriorityFeePerGas": self.fees.priority_fee,
            "gas": self.gas,
            "to": self.to,
            "value": self.value,
            "data": self.data,
        }


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """The bytes to broadcast and their hash, both known before anything is sent."""

    raw: bytes
    hash: bytes
