"""The few things of Ethereum that every pure module of the chain needs: Keccak-256, addresses, keys, integer bounds."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias

from eth_hash.auto import keccak

Address: TypeAlias = bytes
"""Twenty raw bytes."""
Bytes32: TypeAlias = bytes
"""Thirty-two raw bytes."""

ZERO_ADDRESS: Final = bytes(20)
ZERO_HASH: Final = bytes(32)
BPS: Final = 10_000
"""Basis points in a whole."""
FUNC: Final = 10**18
"""Wei in one FUNC."""
MAX_UINT64: Final = 2**64 - 1
MAX_UINT96: Final = 2**96 - 1
MAX_UINT128: Final = 2**128 - 1
MAX_UINT256: Final = 2**256 - 1


def keccak256(data: bytes) -> Bytes32:
    """Keccak-256 as Ethereum uses it (the padding of the competition, not of FIPS 202)."""
    return keccak(data)


@lru_cache(maxsize=4096)
def key_of(identifier: str) -> Bytes32:
    """The key under which the contracts keep a provider or gateway: the hash of its id's UTF-8 bytes."""
    return keccak(identifier.encode())


def checksummed(address: Address) -> str:
    """An address as people and web3.py write it (EIP-55)."""
    # A third of a second, which a node without a chain need not spend.
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))


def word(value: int, bits: int = 256) -> Bytes32:
    """An unsigned integer as one ABI word.

    Raises:
        ValueError: the value does not fit into `bits` bits.
    """
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{value} is not an unsigned integer of {bits} bits")
    return value.to_bytes(32, "big")


def word32(value: Bytes32) -> Bytes32:
    """A bytes32 as one ABI word.

    Raises:
        ValueError: the value is not 32 bytes long.
    """
    if len(value) != 32:
        raise ValueError(f"32 bytes wanted, {len(value)} given")
    return value


def address_word(value: Address) -> Bytes32:
    """An address as one ABI word, padded on the left.

    Raises:
        ValueError: the value is not 20 bytes long.
    """
    if len(value) != 20:
        raise ValueError(f"20 bytes wanted, {len(value)} given")
    return bytes(12) + value


def share_of(amount: int, bps: int) -> int:
    """floor(amount × bps ÷ 10000)."""
    return amount * bps // BPS


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient of non-negative integers, rounded up."""
    return -(-numerator // denominator)
