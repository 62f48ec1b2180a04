"""A snapshot of the chain for every transaction under way: the head, the account's nonces, and the receipts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chain.client.answers import data, quantity
from chain.client.lifecycle import Seen, View
from chain.client.rpc import Rpc
from chain.errors import RpcRefused


async def chain_snapshot(
    rpc: Rpc, address: str, hashes: Sequence[bytes], confirmations: int
) -> tuple[View, dict[bytes, Mapping[str, Any] | None]]:
    """The chain as it is now, and the receipt (or None) of each attempt that the node could tell about.

    Nonces are asked before receipts: a nonce that counts as used by ours then has its receipt.
    """
    head, block = await rpc.batch([("eth_blockNumber", ()), ("eth_getBlockByNumber", ("latest", False))])
    if isinstance(head, RpcRefused):
        raise head
    number = quantity(head)
    deep = max(0, number - confirmations + 1)
    answers = await rpc.batch(
        [
            ("eth_getTransactionCount", (address, "latest")),
            ("eth_getTransactionCount", (address, hex(deep))),
            *(("eth_getTransactionReceipt", ("0x" + each.hex(),)) for each in hashes),
        ]
    )
    if isinstance(answers[0], RpcRefused):
        raise answers[0]
    nonce = quantity(answers[0])
    # A node that has forgotten old states cannot tell about the depth: then nothing counts as used for good.
    deep_nonce = 0 if isinstance(answers[1], RpcRefused) else quantity(answers[1])
    receipts: dict[bytes, Mapping[str, Any] | None] = {}
    for each, answer in zip(hashes, answers[2:], strict=True):
        if answer is None or (isinstance(answer, dict) and answer.get("blockNumber") is not None):
            receipts[each] = answer
    base_fee = quantity(block["baseFeePerGas"]) if isinstance(block, dict) and "baseFeePerGas" in block else 0
    seen = {each: _seen(each, receipt) for each, receipt in receipts.items() if receipt is not None}
    return View(max(number, *(s.block_number for s in seen.values()), 0), base_fee, nonce, deep_nonce, seen), receipts


def _seen(tx_hash: bytes, receipt: Mapping[str, Any]) -> Seen:
    return Seen(tx_hash, quantity(receipt["blockNumber"]), data(receipt["blockHash"]), quantity(receipt["status"]) == 1)
