"""JSON-RPC values: strict reading of what a client sends; blocks, transactions and logs in the form it expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chain.devnet.store import BlockRow, LogRow, TxRow

if TYPE_CHECKING:
    from eth.abc import BlockHeaderAPI

MAX_DATA = 256 * 1024
MAX_FILTER = 1_000


class BadParams(Exception):
    """The parameters of a call are not what the method takes."""


def quantity(value: int) -> str:
    return hex(value)


def data(value: bytes) -> str:
    return "0x" + value.hex()


def read_quantity(value: object, most: int = 2**256 - 1) -> int:
    """A hex quantity. Also plain integers, which some clients send. Raises `BadParams`."""
    if isinstance(value, bool):
        raise BadParams("a quantity is a hex string")
    if isinstance(value, int):
        number = value
    elif isinstance(value, str) and value.startswith("0x") and 3 <= len(value) <= 66:
        try:
            number = int(value, 16)
        except ValueError:
            raise BadParams(f"{value[:80]!r} is not a hex quantity") from None
    else:
        raise BadParams(f"{str(value)[:80]!r} is not a hex quantity")
    if not 0 <= number <= most:
        raise BadParams(f"{number} is out of range")
    return number


def read_bytes(value: object, length: int | None = None, most: int = MAX_DATA) -> bytes:
    """Hex bytes. Raises `BadParams`."""
    if not isinstance(value, str) or not value.startswith("0x") or len(value) % 2 or len(value) > 2 + 2 * most:
        raise BadParams("bytes are an even number of hex digits after 0x")
    try:
        found = bytes.fromhex(value[2:])
    except ValueError:
        raise BadParams("bytes are hex digits after 0x") from None
    if length is not None and len(found) != length:
        raise BadParams(f"{length} bytes expected, got {len(found)}")
    return found


def read_address(value: object) -> bytes:
    return read_bytes(value, 20)


def read_call(value: object) -> dict[str, Any]:
    """`eth_call`'s first parameter as arguments of `Evm.call`. Raises `BadParams`."""
    if not isinstance(value, Mapping):
        raise BadParams("a call is an object")
    body = value.get("input", value.get("data"))
    gas = value.get("gas")
    return {
        "sender": read_address(value["from"]) if value.get("from") else bytes(20),
        "to": read_address(value["to"]) if value.get("to") else None,
        "data": b"" if body is None else read_bytes(body),
        "value": read_quantity(value.get("value") or 0),
        "gas": None if gas is None else read_quantity(gas, 2**63),
    }


def read_overrides(value: object) -> dict[bytes, dict[str, Any]]:
    """geth's state overrides. Raises `BadParams`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_FILTER:
        raise BadParams("state overrides are an object")
    found: dict[bytes, dict[str, Any]] = {}
    for address, change in value.items():
        if not isinstance(change, Mapping):
            raise BadParams("a state override is an object")
        unknown = set(change) - {"balance", "nonce", "code", "stateDiff"}
        if unknown:
            raise BadParams(f"state override {sorted(unknown)[0]!r} is not supported")
        entry: dict[str, Any] = {name: read_quantity(change[name]) for name in ("balance", "nonce") if name in change}
        if "code" in change:
            entry["code"] = read_bytes(change["code"])
        slots = change.get("stateDiff") or {}
        if not isinstance(slots, Mapping) or len(slots) > MAX_FILTER:
            raise BadParams("stateDiff is an object of slots")
        entry["stateDiff"] = {
            int.from_bytes(read_bytes(slot, 32), "big"): int.from_bytes(read_bytes(word, 32), "big")
            for slot, word in slots.items()
        }
        found[read_address(address)] = entry
    return found


def read_topics(value: object) -> list[list[bytes]]:
    """The topics of a log filter. Raises `BadParams`."""
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > 4:
        raise BadParams("topics are a list of at most four")
    found: list[list[bytes]] = []
    for topic in value:
        if topic is None:
            found.append([])
        elif isinstance(topic, str):
            found.append([read_bytes(topic, 32)])
        elif isinstance(topic, Sequence) and len(topic) <= MAX_FILTER:
            found.append([read_bytes(each, 32) for each in topic])
        else:
            raise BadParams("a topic is a hash, a list of hashes or null")
    return found


def read_addresses(value: object) -> list[bytes]:
    """One address or a list of them. Raises `BadParams`."""
    if value is None:
        return []
    if isinstance(value, str):
        return [read_address(value)]
    if isinstance(value, Sequence) and len(value) <= MAX_FILTER:
        return [read_address(each) for each in value]
    raise BadParams(f"an address or a list of at most {MAX_FILTER} addresses")


def block_json(row: BlockRow, header: BlockHeaderAPI, transactions: Sequence[Any]) -> dict[str, Any]:
    """A block; `transactions` are hashes or transaction objects, already as JSON."""
    return {
        "number": quantity(row.number),
        "hash": data(row.hash),
        "parentHash": data(header.parent_hash),
        "sha3Uncles": data(header.uncles_hash),
        "miner": data(header.coinbase),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "difficulty": quantity(header.difficulty),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "extraData": data(header.extra_data),
        "mixHash": data(header.mix_hash),
        "nonce": data(header.nonce),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "requestsHash": data(header.requests_hash),
        "size": quantity(len(row.header)),
        "uncles": [],
        "withdrawals": [],
        "transactions": list(transactions),
    }


def transaction_json(tx: Any, row: TxRow | None, block_hash: bytes | None) -> dict[str, Any]:
    """A transaction, mined (`row`) or waiting."""
    found: dict[str, Any] = {
        "hash": data(tx.hash),
        "nonce": quantity(tx.nonce),
        "from": data(tx.sender),
        "to": data(tx.to) if tx.to else None,
        "value": quantity(tx.value),
        "gas": quantity(tx.gas),
        "input": data(tx.data),
        "type": quantity(tx.type_id or 0),
        "v": quantity(tx.y_parity),
        "r": quantity(tx.r),
        "s": quantity(tx.s),
        "gasPrice": quantity(row.gas_price if row is not None else tx.max_fee_per_gas),
        "blockHash": data(block_hash) if block_hash is not None else None,
        "blockNumber": quantity(row.block) if row is not None else None,
        "transactionIndex": quantity(row.position) if row is not None else None,
    }
    if tx.chain_id is not None:
        found["chainId"] = quantity(tx.chain_id)
    if tx.type_id in (2, 4):
        found |= {
            "maxFeePerGas": quantity(tx.max_fee_per_gas),
            "maxPriorityFeePerGas": quantity(tx.max_priority_fee_per_gas),
            "yParity": quantity(tx.y_parity),
        }
    if tx.type_id:
        found["accessList"] = [
            {"address": data(address), "storageKeys": [data(slot.to_bytes(32, "big")) for slot in slots]}
            for address, slots in tx.access_list
        ]
    return found


def log_json(log: LogRow, block_hash: bytes) -> dict[str, Any]:
    return {
        "address": data(log.address),
        "topics": [data(topic) for topic in log.topics],
        "data": data(log.data),
        "blockNumber": quantity(log.block),
        "blockHash": data(block_hash),
        "transactionHash": data(log.tx),
        "transactionIndex": quantity(log.tx_position),
        "logIndex": quantity(log.position),
        "removed": False,
    }


def receipt_json(tx: Any, row: TxRow, block_hash: bytes, logs: Sequence[LogRow]) -> dict[str, Any]:
    return {
        "transactionHash": data(row.hash),
        "transactionIndex": quantity(row.position),
        "blockHash": data(block_hash),
        "blockNumber": quantity(row.block),
        "from": data(row.sender),
        "to": data(tx.to) if tx.to else None,
        "cumulativeGasUsed": quantity(row.cumulative_gas),
        "gasUsed": quantity(row.gas_used),
        "effectiveGasPrice": quantity(row.gas_price),
        "contractAddress": data(row.contract) if row.contract is not None else None,
        "logs": [log_json(log, block_hash) for log in logs],
        "logsBloom": data(row.bloom),
        "status": quantity(row.status),
        "type": quantity(tx.type_id or 0),
    }
