"""Transactions that wait for a block: by sender and nonce, bounded, with replacement by a higher fee.

Pure: says what may run next; the node runs it. The rules and the wording of refusals are geth's, because clients
(ours too) tell cases apart by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

MAX_POOL = 20_000
MAX_PER_SENDER = 4_096
REPLACEMENT_PERCENT = 10


class PoolTransaction(Protocol):
    """What the pool looks at; py-evm's signed transactions have it."""

    @property
    def hash(self) -> bytes: ...
    @property
    def sender(self) -> bytes: ...
    @property
    def nonce(self) -> int: ...
    @property
    def gas(self) -> int: ...
    @property
    def value(self) -> int: ...
    @property
    def max_fee_per_gas(self) -> int: ...
    @property
    def max_priority_fee_per_gas(self) -> int: ...
    @property
    def intrinsic_gas(self) -> int: ...


class PoolRefused(Exception):
    """The pool does not take this transaction."""


class Pool:
    """Waiting transactions. `nonce_of` and `balance_of` read the state of the head."""

    def __init__(self, nonce_of: Callable[[bytes], int], balance_of: Callable[[bytes], int], gas_limit: int) -> None:
        self._nonce_of = nonce_of
        self._balance_of = balance_of
        self._gas_limit = gas_limit
        self._by_sender: dict[bytes, dict[int, PoolTransaction]] = {}
        self._by_hash: dict[bytes, PoolTransaction] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def get(self, tx_hash: bytes) -> PoolTransaction | None:
        return self._by_hash.get(tx_hash)

    def add(self, tx: PoolTransaction) -> None:
        """Raises `PoolRefused`."""
        if tx.hash in self._by_hash:
            raise PoolRefused("already known")
        if len(self._by_hash) >= MAX_POOL:
            raise PoolRefused("txpool is full")
        if tx.gas > self._gas_limit:
            raise PoolRefused("exceeds block gas limit")
        if tx.gas < tx.intrinsic_gas:
            raise PoolRefused(f"intrinsic gas too low: have {tx.gas}, want {tx.intrinsic_gas}")
        if tx.max_priority_fee_per_gas > tx.max_fee_per_gas:
            raise PoolRefused("max priority fee per gas higher than max fee per gas")
        nonce = self._nonce_of(tx.sender)
        if tx.nonce < nonce:
            raise PoolRefused(f"nonce too low: next nonce {nonce}, tx nonce {tx.nonce}")
        cost = tx.gas * tx.max_fee_per_gas + tx.value
        balance = self._balance_of(tx.sender)
        if cost > balance:
            raise PoolRefused(f"insufficient funds for gas * price + value: balance {balance}, tx cost {cost}")
        waiting = self._by_sender.setdefault(tx.sender, {})
        before = waiting.get(tx.nonce)
        if before is not None:
            for new, old in (
                (tx.max_fee_per_gas, before.max_fee_per_gas),
                (tx.max_priority_fee_per_gas, before.max_priority_fee_per_gas),
            ):
                if new * 100 < old * (100 + REPLACEMENT_PERCENT):
                    raise PoolRefused("replacement transaction underpriced")
            del self._by_hash[before.hash]
        elif len(waiting) >= MAX_PER_SENDER:
            raise PoolRefused("account limit exceeded")
        waiting[tx.nonce] = tx
        self._by_hash[tx.hash] = tx

    def ready(self, base_fee: int, most_gas: int) -> list[PoolTransaction]:
        """What a block with this base fee can hold now: per sender in order of nonces without a gap, best tip first."""
        heads: dict[bytes, int] = {sender: self._nonce_of(sender) for sender in self._by_sender}
        chosen: list[PoolTransaction] = []
        left = most_gas
        while heads:
            candidates = [
                (sender, tx)
                for sender, nonce in heads.items()
                if (tx := self._by_sender[sender].get(nonce)) is not None and tx.max_fee_per_gas >= base_fee
            ]
            heads = {sender: tx.nonce for sender, tx in candidates}
            if not candidates:
                break
            sender, tx = max(
                candidates,
                key=lambda pair: min(pair[1].max_priority_fee_per_gas, pair[1].max_fee_per_gas - base_fee),
            )
            if tx.gas > left:
                break
            chosen.append(tx)
            left -= tx.gas
            heads[sender] = tx.nonce + 1
        return chosen

    def pending_nonce(self, sender: bytes) -> int:
        """The nonce after all that waits without a gap."""
        nonce = self._nonce_of(sender)
        waiting = self._by_sender.get(sender, {})
        while nonce in waiting:
            nonce += 1
        return nonce

    def remove(self, tx_hash: bytes) -> None:
        tx = self._by_hash.pop(tx_hash, None)
        if tx is not None:
            waiting = self._by_sender[tx.sender]
            del waiting[tx.nonce]
            if not waiting:
                del self._by_sender[tx.sender]

    def drop_stale(self) -> None:
        """Forget what can no longer run, because its nonce has been used."""
        for tx in list(self._by_hash.values()):
            if tx.nonce < self._nonce_of(tx.sender):
                self.remove(tx.hash)

    def clear(self) -> None:
        self._by_sender.clear()
        self._by_hash.clear()
