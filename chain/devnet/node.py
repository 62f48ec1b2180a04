"""The embedded chain itself: a pool, blocks on demand, time under control, snapshots. No network, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chain.devnet.evm import BLOCK_GAS_LIMIT, CallOutcome, Evm, TransactionRefused
from chain.devnet.pool import Pool, PoolRefused
from chain.devnet.store import BlockRow, LogRow, Store, TxRow
from chain.errors import DevnetError

if TYPE_CHECKING:
    from eth.abc import BlockHeaderAPI, SignedTransactionAPI

MAX_MINE = 100_000
"""Most blocks that one request may mine."""


class UnknownBlock(Exception):
    """There is no such block."""


class Node:
    """A chain of one node. `path` keeps it across restarts (also after kill -9); None keeps it in memory.

    `automine`: every accepted transaction is in a block before `send` returns. Raises `DevnetError`.
    """

    def __init__(
        self,
        chain_id: int,
        accounts: Mapping[bytes, int],
        *,
        path: Path | None = None,
        automine: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.chain_id = chain_id
        self.automine = automine
        self._clock = clock
        self._ahead = 0
        self._next_timestamp: int | None = None
        self._snapshots: list[tuple[int, bytes]] = []
        self.store = Store(path)
        self.evm = Evm(self.store, chain_id)
        stored = self.store.get_meta("chain_id")
        if self.store.head() is None:
            self.store.set_meta("chain_id", str(chain_id).encode())
            self.evm.genesis(accounts, int(clock()))
        elif stored != str(chain_id).encode():
            raise DevnetError(f"{path} holds chain {(stored or b'?').decode()}, not chain {chain_id}")
        self.pool = Pool(self.nonce, self.balance, BLOCK_GAS_LIMIT)
        self._state = self.evm.state_at(self.head())

    def close(self) -> None:
        self.store.close()

    # --- blocks ---

    def head_number(self) -> int:
        number = self.store.head()
        assert number is not None  # block 0 is written by the constructor
        return number

    def head(self) -> BlockHeaderAPI:
        return self.evm.header(self.head_number())

    def block(self, which: int | bytes) -> BlockRow:
        """By number or hash. Raises `UnknownBlock`."""
        row = self.store.block_by_hash(which) if isinstance(which, bytes) else self.store.block(which)
        if row is None:
            raise UnknownBlock("block not found")
        return row

    def header(self, number: int) -> BlockHeaderAPI:
        """Raises `UnknownBlock`."""
        try:
            return self.evm.header(number)
        except KeyError:
            raise UnknownBlock("header not found") from None

    def mine(self, blocks: int = 1, *, spacing: int | None = None) -> None:
        """Mine so many blocks, the first with what waits in the pool; `spacing` seconds apart (at least 1)."""
        if not 0 <= blocks <= MAX_MINE:
            raise ValueError(f"0 to {MAX_MINE} blocks can be mined at once")
        for index in range(blocks):
            if spacing is not None and index:
                self._next_timestamp = self.head().timestamp + spacing
            self._mine_one()

    def _mine_one(self) -> None:
        header = self.evm.next_header(self.head(), self._timestamp())
        chosen: list[Any] = list(self.pool.ready(header.base_fee_per_gas, header.gas_limit))
        block, transactions, logs, refused = self.evm.build(header, chosen)
        self.store.write_block(block, transactions, logs)
        self._next_timestamp = None
        for tx in chosen:
            self.pool.remove(tx.hash)
        if chosen or refused:
            self._state = self.evm.state_at(self.head())
            self.pool.drop_stale()

    def _timestamp(self) -> int:
        if self._next_timestamp is not None:
            return self._next_timestamp
        return int(self._clock()) + self._ahead

    def advance_time(self, seconds: int) -> int:
        """Later blocks are so many seconds further ahead of the clock; the whole lead is returned."""
        self._ahead += seconds
        return self._ahead

    def set_next_timestamp(self, timestamp: int) -> None:
        """Raises ValueError unless it is after the head's."""
        if timestamp <= self.head().timestamp:
            raise ValueError("timestamp must be after the head's")
        self._next_timestamp = timestamp

    # --- snapshots: for tests, and for reorganisations ---

    def snapshot(self) -> int:
        head = self.head()
        self._snapshots.append((head.block_number, head.hash))
        return len(self._snapshots)

    def revert(self, snapshot: int) -> bool:
        """Back to a snapshot; it and later ones are used up. False if there is none, or its block is gone."""
        if not 1 <= snapshot <= len(self._snapshots):
            return False
        number, block_hash = self._snapshots[snapshot - 1]
        del self._snapshots[snapshot - 1 :]
        row = self.store.block(number)
        if row is None or row.hash != block_hash:
            return False
        self.pool.clear()
        self.rewind(number)
        return True

    def rewind(self, number: int) -> list[bytes]:
        """Drop the blocks above `number`, as a reorganisation does; the raw transactions that were in them."""
        dropped = self.store.drop_blocks_after(number)
        self._state = self.evm.state_at(self.head())
        return dropped

    # --- state ---

    def nonce(self, address: bytes) -> int:
        return int(self._state.get_nonce(address))

    def balance(self, address: bytes) -> int:
        return int(self._state.get_balance(address))

    def state(self, number: int) -> Any:
        """Raises `UnknownBlock`."""
        return self.evm.state_at(self.header(number))

    def pending_header(self) -> BlockHeaderAPI:
        return self.evm.next_header(self.head(), self._timestamp())

    # --- transactions ---

    def send(self, raw: bytes) -> bytes:
        """Take a signed transaction into the pool, and mine it if that is automatic. Its hash.

        Raises `TransactionRefused` or `PoolRefused`.
        """
        tx_hash = self.accept(raw)
        if self.automine:
            self.mine_ready()
        return tx_hash

    def accept(self, raw: bytes) -> bytes:
        """Into the pool only."""
        tx: SignedTransactionAPI = self.evm.decode(raw)
        if self.store.transaction(tx.hash) is not None:
            raise PoolRefused("already known")
        self.pool.add(tx)
        return bytes(tx.hash)

    def mine_ready(self) -> None:
        """Mine until nothing that could run is left waiting."""
        while self.pool.ready(self.pending_header().base_fee_per_gas, BLOCK_GAS_LIMIT):
            self._mine_one()

    def transaction(self, tx_hash: bytes) -> tuple[Any, TxRow | None] | None:
        """The decoded transaction with where it was mined, if it was."""
        row = self.store.transaction(tx_hash)
        if row is not None:
            return self.evm.decode(row.raw), row
        waiting = self.pool.get(tx_hash)
        return None if waiting is None else (waiting, None)

    def logs_of(self, tx_hash: bytes) -> list[LogRow]:
        return self.store.logs_of(tx_hash)

    # --- calls ---

    def call(self, header: BlockHeaderAPI, **arguments: Any) -> CallOutcome:
        return self.evm.call(header, **arguments)

    def estimate(self, header: BlockHeaderAPI, **arguments: Any) -> tuple[int, CallOutcome]:
        return self.evm.estimate(header, **arguments)


__all__ = ["Node", "PoolRefused", "TransactionRefused", "UnknownBlock"]
