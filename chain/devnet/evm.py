"""Runs transactions on py-evm: builds blocks on a parent, makes calls that change nothing, estimates gas.

The only module that knows py-evm. It keeps no chain of its own: blocks and state live in the `Store`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rlp
from eth_utils import ValidationError

from chain import recursion_limit
from chain.devnet.store import BlockRow, LogRow, Store, TxRow

# py-evm raises the limit for deep calls, and its py_ecc so far that other code can exhaust the C stack.
with recursion_limit.kept():
    from eth import EVM_RECURSION_LIMIT
    from eth.abc import BlockHeaderAPI, ComputationAPI, SignedTransactionAPI, StateAPI
    from eth.chains.base import ChainContext, ConsensusContext
    from eth.constants import POST_MERGE_DIFFICULTY, POST_MERGE_MIX_HASH, POST_MERGE_NONCE
    from eth.db.atomic import AtomicDB
    from eth.db.backends.base import BaseDB
    from eth.db.chain import ChainDB
    from eth.db.trie import make_trie_root_and_nodes
    from eth.exceptions import OutOfGas, PyEVMError, Revert, VMError
    from eth.vm.forks.prague import PragueVM
    from eth.vm.forks.prague.blocks import PragueBlockHeader
    from eth.vm.spoof import SpoofTransaction

EVM_STACK = 256 << 20
"""Bytes of stack that a thread needs for calls 1024 deep."""

BLOCK_GAS_LIMIT = 30_000_000
CALL_GAS = 2 * BLOCK_GAS_LIMIT
BASE_FEE_FLOOR = 7
MAX_ANSWERS = 2048
MAX_ANSWER = 16 << 10
"""Bytes of a call and its output that are kept: 32 MiB of them in all."""
COINBASE = bytes.fromhex("00000000000000000000000000000000c0ffee00")


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a call gave: its output or the revert data; `gas_used` net of refunds; `halt` names a halt without data."""

    ok: bool
    output: bytes
    gas_used: int
    refunded: int
    halt: str | None = None
    out_of_gas: bool = False


class TransactionRefused(Exception):
    """A transaction that cannot be in any block now; the message follows geth's words, which tools look for."""


class _Nodes(BaseDB):
    """The store's trie nodes as the mapping that py-evm wants."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, key: bytes) -> bytes:
        return self._store.read_node(key)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._store.write_node(key, value)

    def __delitem__(self, key: bytes) -> None:
        raise KeyError(key)  # nodes are addressed by content: nothing is ever taken back

    def _exists(self, key: bytes) -> bool:
        try:
            self._store.read_node(key)
        except KeyError:
            return False
        return True


class Evm:
    """Executes on the state of `store`. One thread at a time."""

    def __init__(self, store: Store, chain_id: int) -> None:
        self.chain_id = chain_id
        self._store = store
        self._db = AtomicDB(_Nodes(store))
        chaindb = ChainDB(self._db)

        class Vm(PragueVM):
            """Prague rules; the hashes that BLOCKHASH gives come from the store."""

            @property
            def previous_hashes(self) -> Iterator[bytes]:
                return store.hashes_before(self.get_header().block_number)

        self._chaindb = chaindb
        self._vm_class = Vm
        self._context = ChainContext(chain_id)
        self._consensus = ConsensusContext(self._db)
        self._builder = Vm.get_transaction_builder()
        self._headers: dict[int, BlockHeaderAPI] = {}
        self._answers: dict[tuple[object, ...], CallOutcome] = {}
        """What calls gave by block and what was asked: nodes ask it of the same block several times a second."""

    # --- headers ---

    def genesis(self, accounts: Mapping[bytes, int], timestamp: int) -> None:
        """Write block 0, in which each of `accounts` holds so many wei."""
        blank = PragueBlockHeader(
            difficulty=0, block_number=0, gas_limit=BLOCK_GAS_LIMIT, base_fee_per_gas=0, excess_blob_gas=0
        )
        state = self._vm_class.build_state(self._db, blank, self._context)
        for address, balance in accounts.items():
            state.set_balance(address, balance)
        state.persist()
        header = self._vm_class.create_genesis_header(
            difficulty=POST_MERGE_DIFFICULTY,
            mix_hash=POST_MERGE_MIX_HASH,
            nonce=POST_MERGE_NONCE,
            coinbase=COINBASE,
            extra_data=b"inference-mesh",
            gas_limit=BLOCK_GAS_LIMIT,
            timestamp=timestamp,
            state_root=state.state_root,
            base_fee_per_gas=10**9,
        )
        self._store.write_block(BlockRow(0, header.hash, rlp.encode(header)), (), ())

    def header(self, number: int) -> BlockHeaderAPI:
        """Raises KeyError for a block that there is not."""
        found = self._headers.get(number)
        row = self._store.block(number)
        if row is None:
            raise KeyError(number)
        if found is None or found.hash != row.hash:
            found = rlp.decode(row.header, PragueBlockHeader)
            if len(self._headers) > 4096:
                self._headers.clear()
            self._headers[number] = found
        return found

    def next_header(self, parent: BlockHeaderAPI, timestamp: int) -> BlockHeaderAPI:
        """The header of a block still without transactions. The base fee falls to a floor as low as anvil's."""
        header = self._vm_class.create_header_from_parent(
            parent,
            timestamp=max(timestamp, parent.timestamp + 1),
            gas_limit=parent.gas_limit,
            coinbase=COINBASE,
            mix_hash=os.urandom(32),
        )
        return header.copy(base_fee_per_gas=max(header.base_fee_per_gas, BASE_FEE_FLOOR))

    def state_at(self, header: BlockHeaderAPI) -> StateAPI:
        """State after `header`; changes to it are never kept."""
        return self._vm(header).state

    def _vm(self, header: BlockHeaderAPI) -> PragueVM:
        return self._vm_class(
            header=header, chaindb=self._chaindb, chain_context=self._context, consensus_context=self._consensus
        )

    # --- transactions ---

    def decode(self, raw: bytes) -> SignedTransactionAPI:
        """A signed transaction of ours. Raises `TransactionRefused`."""
        try:
            tx = self._builder.decode(raw)
            tx.check_signature_validity()
            chain_id = tx.chain_id
            sender = tx.sender
        except (ValidationError, PyEVMError, rlp.exceptions.RLPException, ValueError, TypeError, IndexError) as error:
            raise TransactionRefused(f"invalid transaction: {error}") from error
        if chain_id is not None and chain_id != self.chain_id:
            raise TransactionRefused(f"invalid chain id for signer: have {chain_id} want {self.chain_id}")
        if tx.type_id == 3:
            raise TransactionRefused("transaction type not supported: blobs")
        if not sender:
            raise TransactionRefused("invalid sender")
        return tx

    @recursion_limit.raised(EVM_RECURSION_LIMIT)
    def build(
        self, header: BlockHeaderAPI, transactions: Sequence[SignedTransactionAPI]
    ) -> tuple[BlockRow, list[TxRow], list[LogRow], dict[bytes, str]]:
        """Run `transactions` in order in a block with this header; those that cannot run are left out and named.

        Returns the rows to store, and the reasons of refusal by transaction hash.
        """
        vm = self._vm(header)
        vm.block_preprocessing(vm.get_block())
        state = vm.state
        refused: dict[bytes, str] = {}
        kept: list[tuple[SignedTransactionAPI, Any, ComputationAPI]] = []
        rows: list[TxRow] = []
        logs: list[LogRow] = []
        bloom, gas_used = 0, 0
        for tx in transactions:
            state.lock_changes()
            try:
                receipt, computation = vm.apply_transaction(header.copy(gas_used=gas_used), tx)
            except ValidationError as error:
                refused[tx.hash] = str(error)
                continue
            position = len(kept)
            kept.append((tx, receipt, computation))
            for log in receipt.logs:
                logs.append(
                    LogRow(
                        header.block_number, len(logs), tx.hash, position, log.address,
                        tuple(topic.to_bytes(32, "big") for topic in log.topics), log.data,
                    )
                )  # fmt: skip
            rows.append(
                TxRow(
                    hash=tx.hash,
                    block=header.block_number,
                    position=position,
                    raw=tx.encode(),
                    sender=tx.sender,
                    status=int(computation.is_success),
                    gas_used=receipt.gas_used - gas_used,
                    cumulative_gas=receipt.gas_used,
                    gas_price=state.get_gas_price(tx),
                    contract=computation.msg.storage_address if tx.to == b"" else None,
                    bloom=receipt.bloom.to_bytes(256, "big"),
                )
            )
            gas_used = receipt.gas_used
            bloom |= receipt.bloom
        state.persist()
        # The tries of transactions and receipts are not kept: only their roots are in the header.
        tx_root, _ = make_trie_root_and_nodes([tx for tx, _, _ in kept])
        receipt_root, _ = make_trie_root_and_nodes([receipt for _, receipt, _ in kept])
        sealed = header.copy(
            state_root=state.state_root,
            transaction_root=tx_root,
            receipt_root=receipt_root,
            bloom=bloom,
            gas_used=gas_used,
        )
        return BlockRow(sealed.block_number, sealed.hash, rlp.encode(sealed)), rows, logs, refused

    # --- calls ---

    def call(
        self,
        header: BlockHeaderAPI,
        *,
        sender: bytes,
        to: bytes | None,
        data: bytes,
        value: int = 0,
        gas: int | None = None,
        overrides: Mapping[bytes, Mapping[str, Any]] | None = None,
    ) -> CallOutcome:
        """Execute on the state of `header`, in its context, for free, and forget what changed.

        `overrides` are geth's state overrides: balance, nonce, code, stateDiff by address.
        """
        asked = (header.hash, sender, to, data, value, gas)
        found = None if overrides else self._answers.get(asked)
        if found is None:
            state = self._call_state(header, overrides)
            found = self._execute(state, sender, to, data, value, gas or CALL_GAS)
            if not overrides and len(data) + len(found.output) <= MAX_ANSWER:
                if len(self._answers) >= MAX_ANSWERS:
                    self._answers.clear()
                self._answers[asked] = found
        return found

    def estimate(
        self,
        header: BlockHeaderAPI,
        *,
        sender: bytes,
        to: bytes | None,
        data: bytes,
        value: int = 0,
        overrides: Mapping[bytes, Mapping[str, Any]] | None = None,
    ) -> tuple[int, CallOutcome]:
        """A gas limit, not much above the least, with which the call succeeds; or the failed outcome of the largest."""
        limit = header.gas_limit

        def attempt(gas: int) -> CallOutcome:
            return self._execute(self._call_state(header, overrides), sender, to, data, value, gas)

        most = attempt(limit)
        if not most.ok:
            return limit, most
        # Every call keeps back a 64th of its gas, refunds come only at the end, and a stipend may be needed on the
        # way: a guess from these nearly always suffices, and then two executions are enough.
        guess = min(limit, (most.gas_used + most.refunded + 2300) * 64 // 63)
        if attempt(guess).ok:
            return guess, most
        low, high = guess, limit
        while high - low > high * 15 // 1000:
            middle = min((high + low) // 2, low * 2)
            if attempt(middle).ok:
                high = middle
            else:
                low = middle
        return high, most

    def _call_state(self, header: BlockHeaderAPI, overrides: Mapping[bytes, Mapping[str, Any]] | None) -> StateAPI:
        state = self._vm(header.copy(base_fee_per_gas=0, gas_limit=CALL_GAS)).state
        for address, change in (overrides or {}).items():
            if "balance" in change:
                state.set_balance(address, change["balance"])
            if "nonce" in change:
                state.set_nonce(address, change["nonce"])
            if "code" in change:
                state.set_code(address, change["code"])
            for slot, value in change.get("stateDiff", {}).items():
                state.set_storage(address, slot, value)
        if overrides:
            state.lock_changes()
        return state

    # What is asked of the computation afterwards (refunds, logs) goes as deep as its calls did.
    @recursion_limit.raised(EVM_RECURSION_LIMIT)
    def _execute(
        self, state: StateAPI, sender: bytes, to: bytes | None, data: bytes, value: int, gas: int
    ) -> CallOutcome:
        unsigned = self._builder.create_unsigned_transaction(
            nonce=state.get_nonce(sender), gas_price=0, gas=gas, to=to or b"", value=value, data=data
        )
        intrinsic = unsigned.intrinsic_gas
        if gas < intrinsic:
            return CallOutcome(False, b"", gas, 0, "intrinsic gas too low", out_of_gas=True)
        try:
            computation = state.apply_transaction(SpoofTransaction(unsigned, from_=sender))
        except ValidationError as error:
            return CallOutcome(False, b"", 0, 0, f"insufficient funds for gas * price + value: {error}")
        spent = gas - computation.get_gas_remaining()
        refund = min(computation.get_gas_refund(), spent // 5)
        used = spent - refund + computation.data_floor_gas
        if computation.is_success:
            return CallOutcome(True, computation.output, used, refund)
        failure: VMError = computation.error
        return CallOutcome(
            False,
            computation.output,
            used,
            0,
            None if isinstance(failure, Revert) else type(failure).__name__,
            out_of_gas=isinstance(failure, OutOfGas),
        )
