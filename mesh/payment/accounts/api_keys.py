"""API keys and the signed request for one (pure).

A developer proves with the key of its wallet that a deposit is its own, and gets an API key that spends from it. What
is signed is a text that wallets can show (ERC-191), with a label, a date and the gateway's name: it opens no other
gateway, no other chain, and nothing after `LIFETIME_SECONDS`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from chain.primitives import Address, Bytes32, checksummed, keccak256

KEY_PREFIX: Final = "sk-mesh-"
KEY_RANDOM_BYTES: Final = 32
LIFETIME_SECONDS: Final = 300
"""How far the date of a request may be from the gateway's clock."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """«Give an API key for my deposit»: at one gateway, on one chain, at `issued` (Unix time, seconds)."""

    payer: Address
    gateway: str
    chain_id: int
    escrow: Address
    issued: int
    nonce: Bytes32

    def text(self) -> str:
        """What is signed, as people read it."""
        return (
            "Inference mesh: make an API key (version 1)\n"
            f"gateway: {json.dumps(self.gateway)}\n"
            f"chain: {self.chain_id}\n"
            f"escrow: {checksummed(self.escrow)}\n"
            f"payer: {checksummed(self.payer)}\n"
            f"issued: {self.issued}\n"
            f"nonce: 0x{self.nonce.hex()}\n"
        )

    def digest(self) -> Bytes32:
        """The 32 bytes that are signed: ERC-191's «personal message» over the text."""
        text = self.text().encode()
        return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)

    def is_current(self, now: float) -> bool:
        return -LIFETIME_SECONDS <= self.issued - int(now) <= LIFETIME_SECONDS  # integers: a float cannot be that large


def make_key(random: bytes) -> str:
    """An API key of 32 random bytes. Raises ValueError for fewer."""
    if len(random) != KEY_RANDOM_BYTES:
        raise ValueError(f"an API key has {KEY_RANDOM_BYTES} random bytes")
    return KEY_PREFIX + random.hex()


def hash_key(key: str) -> bytes:
    """What is kept of a key: sha256. It has 256 random bits, so neither salt nor a slow hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
