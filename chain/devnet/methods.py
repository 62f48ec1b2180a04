"""The JSON-RPC methods of the embedded chain, as synchronous functions of the node. Names and answers are geth's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eth_utils import keccak

from chain.devnet.evm import BLOCK_GAS_LIMIT, CallOutcome
from chain.devnet.formats import (
    BadParams,
    block_json,
    data,
    log_json,
    quantity,
    read_address,
    read_addresses,
    read_bytes,
    read_call,
    read_overrides,
    read_quantity,
    read_topics,
    receipt_json,
    transaction_json,
)
from chain.devnet.node import MAX_MINE, Node, PoolRefused, TransactionRefused, UnknownBlock
from chain.devnet.store import BlockRow

if TYPE_CHECKING:
    from eth.abc import BlockHeaderAPI

MAX_LOGS = 10_000
MAX_LOG_RANGE = 100_000
PRIORITY_FEE = 10**9
CLIENT = "inference-mesh/devnet"


class RpcFault(Exception):
    """A JSON-RPC error to answer with."""

    def __init__(self, code: int, message: str, extra: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.extra = extra


class Methods:
    """`call(method, params)` answers one request. Raises `RpcFault`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._filters: dict[int, int] = {}
        self._table: dict[str, Callable[..., Any]] = {
            "web3_clientVersion": lambda: CLIENT,
            "web3_sha3": lambda body: data(keccak(read_bytes(body))),
            "net_version": lambda: str(node.chain_id),
            "net_listening": lambda: True,
            "net_peerCount": lambda: "0x0",
            "eth_chainId": lambda: quantity(node.chain_id),
            "eth_syncing": lambda: False,
            "eth_mining": lambda: node.automine,
            "eth_accounts": list,
            "eth_protocolVersion": lambda: "0x41",
            "eth_blockNumber": lambda: quantity(node.head_number()),
            "eth_gasPrice": lambda: quantity(node.pending_header().base_fee_per_gas + PRIORITY_FEE),
            "eth_maxPriorityFeePerGas": lambda: quantity(PRIORITY_FEE),
            "eth_blobBaseFee": lambda: "0x1",
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": lambda a, b="latest": quantity(self._state(b).get_balance(read_address(a))),
            "eth_getCode": lambda a, b="latest": data(self._state(b).get_code(read_address(a))),
            "eth_getStorageAt": self._storage,
            "eth_getTransactionCount": self._count,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate,
            "eth_sendRawTransaction": lambda raw: data(self._send(read_bytes(raw))),
            "eth_getTransactionByHash": self._transaction,
            "eth_getTransactionReceipt": self._receipt,
            "eth_getTransactionByBlockNumberAndIndex": lambda b, i: self._by_index(self._number(b), i),
            "eth_getTransactionByBlockHashAndIndex": lambda h, i: self._by_index(
                node.block(read_bytes(h, 32)).number, i
            ),
            "eth_getBlockReceipts": self._block_receipts,
            "eth_getBlockByNumber": lambda b, full=False: self._block(b, bool(full)),
            "eth_getBlockByHash": lambda h, full=False: self._block(read_bytes(h, 32), bool(full)),
            "eth_getBlockTransactionCountByNumber": lambda b: quantity(
                len(node.store.transactions_in(self._number(b)))
            ),
            "eth_getBlockTransactionCountByHash": lambda h: quantity(
                len(node.store.transactions_in(node.block(read_bytes(h, 32)).number))
            ),
            "eth_getLogs": self._logs,
            "txpool_status": lambda: {"pending": quantity(len(node.pool)), "queued": "0x0"},
            "evm_mine": lambda *_: self._mine(1, None),
            "evm_snapshot": lambda: quantity(node.snapshot()),
            "evm_revert": lambda n: node.revert(read_quantity(n)),
            "evm_increaseTime": lambda n: quantity(node.advance_time(read_quantity(n, 2**32))),
            "evm_setNextBlockTimestamp": self._set_timestamp,
            "evm_setAutomine": self._set_automine,
            "mesh_rewind": lambda n: [data(raw) for raw in node.rewind(read_quantity(n))],
        }
        for prefix in ("anvil", "hardhat"):
            self._table[f"{prefix}_mine"] = lambda n="0x1", s=None: self._mine(
                read_quantity(n, MAX_MINE), None if s is None else read_quantity(s, 2**32)
            )
        self._table["anvil_getAutomine"] = lambda: node.automine

    def call(self, method: str, params: object) -> Any:
        """Raises `RpcFault`."""
        function = self._table.get(method)
        if function is None:
            raise RpcFault(-32601, f"the method {method[:80]} does not exist")
        if not isinstance(params, list):
            raise RpcFault(-32602, "params must be a list")
        try:
            return function(*params)
        except BadParams as error:
            raise RpcFault(-32602, str(error)) from error
        except (TransactionRefused, PoolRefused) as error:
            raise RpcFault(-32000, str(error)) from error
        except UnknownBlock as error:
            raise RpcFault(-32001, str(error)) from error
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            raise RpcFault(-32602, "wrong number of params") from error

    # --- blocks ---

    def _number(self, which: object) -> int:
        """The number of the block that `which` names. Raises `BadParams`, `UnknownBlock`."""
        if isinstance(which, dict):
            if "blockHash" in which:
                return self.node.block(read_bytes(which["blockHash"], 32)).number
            return self._number(which.get("blockNumber"))
        if which in ("latest", "safe", "finalized", "pending", None):
            return self.node.head_number()
        if which == "earliest":
            return 0
        return read_quantity(which)

    def _header(self, which: object) -> BlockHeaderAPI:
        if which == "pending":
            return self.node.pending_header()
        return self.node.header(self._number(which))

    def _state(self, which: object) -> Any:
        return self.node.state(self._number(which))

    def _block(self, which: object, full: bool) -> dict[str, Any] | None:
        try:
            row = self.node.block(which if isinstance(which, bytes) else self._number(which))
        except UnknownBlock:
            return None
        rows = self.node.store.transactions_in(row.number)
        body: list[Any] = (
            [transaction_json(self.node.evm.decode(tx.raw), tx, row.hash) for tx in rows]
            if full
            else [data(tx.hash) for tx in rows]
        )
        return block_json(row, self.node.header(row.number), body)

    def _fee_history(self, count: object, newest: object, percentiles: object = None) -> dict[str, Any]:
        last = self._number(newest)
        first = max(0, last - min(read_quantity(count, 2**32), 1024) + 1)
        headers = [self.node.header(number) for number in range(first, last + 1)]
        following = self.node.pending_header() if last == self.node.head_number() else self.node.header(last + 1)
        answer: dict[str, Any] = {
            "oldestBlock": quantity(first),
            "baseFeePerGas": [quantity(header.base_fee_per_gas) for header in (*headers, following)],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
        }
        if isinstance(percentiles, list) and percentiles:
            answer["reward"] = [[quantity(PRIORITY_FEE)] * len(percentiles) for _ in headers]
        return answer

    # --- state and calls ---

    def _storage(self, address: object, slot: object, which: object = "latest") -> str:
        return data(self._state(which).get_storage(read_address(address), read_quantity(slot)).to_bytes(32, "big"))

    def _count(self, address: object, which: object = "latest") -> str:
        account = read_address(address)
        if which == "pending":
            return quantity(self.node.pool.pending_nonce(account))
        return quantity(self._state(which).get_nonce(account))

    def _call(self, call: object, which: object = "latest", overrides: object = None) -> str:
        outcome = self.node.call(self._header(which), **read_call(call), overrides=read_overrides(overrides))
        if not outcome.ok:
            raise _failed(outcome)
        return data(outcome.output)

    def _estimate(self, call: object, which: object = "latest", overrides: object = None) -> str:
        arguments = read_call(call)
        arguments.pop("gas")
        gas, outcome = self.node.estimate(self._header(which), **arguments, overrides=read_overrides(overrides))
        if not outcome.ok:
            if outcome.out_of_gas:
                raise RpcFault(-32000, f"gas required exceeds allowance ({BLOCK_GAS_LIMIT})")
            raise _failed(outcome)
        return quantity(gas)

    # --- transactions and logs ---

    def _send(self, raw: bytes) -> bytes:
        return self.node.send(raw)

    def _transaction(self, tx_hash: object) -> dict[str, Any] | None:
        found = self.node.transaction(read_bytes(tx_hash, 32))
        if found is None:
            return None
        tx, row = found
        return transaction_json(tx, row, self.node.block(row.block).hash if row is not None else None)

    def _by_index(self, number: int, index: object) -> dict[str, Any] | None:
        rows = self.node.store.transactions_in(number)
        position = read_quantity(index)
        if position >= len(rows):
            return None
        return self._transaction(data(rows[position].hash))

    def _receipt(self, tx_hash: object) -> dict[str, Any] | None:
        found = self.node.transaction(read_bytes(tx_hash, 32))
        if found is None or found[1] is None:
            return None
        tx, row = found[0], found[1]
        return receipt_json(tx, row, self.node.block(row.block).hash, self.node.logs_of(row.hash))

    def _block_receipts(self, which: object) -> list[Any]:
        row = self.node.block(self._number(which))
        return [self._receipt(data(tx.hash)) for tx in self.node.store.transactions_in(row.number)]

    def _logs(self, wanted: object) -> list[dict[str, Any]]:
        if not isinstance(wanted, dict):
            raise BadParams("a filter is an object")
        if "blockHash" in wanted:
            first = last = self.node.block(read_bytes(wanted["blockHash"], 32)).number
        else:
            first = self._number(wanted.get("fromBlock", "latest"))
            last = min(self._number(wanted.get("toBlock", "latest")), self.node.head_number())
        if last - first >= MAX_LOG_RANGE:
            raise RpcFault(-32005, f"query exceeds max block range {MAX_LOG_RANGE}")
        found = self.node.store.logs(
            first, last, read_addresses(wanted.get("address")), read_topics(wanted.get("topics")), MAX_LOGS
        )
        if len(found) > MAX_LOGS:
            raise RpcFault(-32005, f"query returned more than {MAX_LOGS} results")
        blocks: dict[int, BlockRow] = {number: self.node.block(number) for number in {log.block for log in found}}
        return [log_json(log, blocks[log.block].hash) for log in found]

    # --- control ---

    def _mine(self, blocks: int, spacing: int | None) -> str:
        self.node.mine(blocks, spacing=spacing)
        return "0x0"

    def _set_timestamp(self, timestamp: object) -> None:
        try:
            self.node.set_next_timestamp(read_quantity(timestamp, 2**40))
        except ValueError as error:
            raise BadParams(str(error)) from error

    def _set_automine(self, on: object) -> None:
        self.node.automine = bool(on)
        if self.node.automine:
            self.node.mine_ready()


def _failed(outcome: CallOutcome) -> RpcFault:
    if outcome.halt is not None:
        return RpcFault(-32000, outcome.halt)
    return RpcFault(3, "execution reverted", data(outcome.output))
