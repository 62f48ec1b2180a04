"""What a call needs: gas from the node's estimate, the price of gas, and the account's next nonce."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chain.client.answers import quantity
from chain.client.lifecycle import Refusal, read_refusal
from chain.client.pending import Call, Quote
from chain.client.rpc import Rpc
from chain.contract_errors.decode import decode_revert, is_revert, revert_data
from chain.errors import (
    ChainConfigError,
    ContractError,
    InsufficientFunds,
    RpcRefused,
    TransactionError,
    UnknownRevert,
)

PRICE_SECONDS = 1.0
DEFAULT_TIP = 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """Wei per gas: base fee and a usual tip; and the next nonce, counting what waits. `at` is the loop's time."""

    base_fee: int
    tip: int
    nonce: int
    at: float


class Pricing:
    """Asks `rpc` for one account; prices are kept for a second."""

    def __init__(self, rpc: Rpc, address: str) -> None:
        self._rpc = rpc
        self._address = address
        self._price: Price | None = None
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        """The next price is asked anew."""
        self._price = None

    async def quote(self, call: Call, overrides: Mapping[str, Any] | None = None) -> Quote:
        """What it would cost. Raises `ContractError` where it would revert, and `NodeError`s."""
        gas = call.gas or await self.estimate(call, overrides)
        price = await self.now()
        return Quote(gas, price.base_fee + price.tip, 2 * price.base_fee + price.tip)

    async def estimate(self, call: Call, overrides: Mapping[str, Any] | None = None) -> int:
        request: dict[str, Any] = {"from": self._address, "data": "0x" + call.data.hex()}
        if call.to is not None:
            request["to"] = call.to
        if call.value:
            request["value"] = hex(call.value)
        more = [overrides] if overrides else []
        try:
            try:
                # The next block: an epoch may begin with it.
                answer = await self._rpc.call("eth_estimateGas", request, "pending", *more)
            except RpcRefused as error:
                if is_revert(error.code, str(error)) or revert_data(error.data) or "pending" not in str(error).lower():
                    raise
                answer = await self._rpc.call("eth_estimateGas", request, "latest", *more)
        except RpcRefused as error:
            raise read_revert(error) or cannot_send(error, call) from error
        return quantity(answer)

    async def now(self) -> Price:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._price is not None and now - self._price.at < PRICE_SECONDS:
                return self._price
            address = self._address
            block, tip, latest, pending = await self._rpc.batch(
                [
                    ("eth_getBlockByNumber", ("latest", False)),
                    ("eth_maxPriorityFeePerGas", ()),
                    ("eth_getTransactionCount", (address, "latest")),
                    ("eth_getTransactionCount", (address, "pending")),
                ]
            )
            for answer in (block, latest):
                if isinstance(answer, RpcRefused):
                    raise answer
            if not isinstance(block, dict) or block.get("baseFeePerGas") is None:
                raise ChainConfigError("this chain has no base fee (EIP-1559), which this client needs")
            nonce = quantity(latest)
            if not isinstance(pending, RpcRefused):
                nonce = max(nonce, quantity(pending))
            paid_tip = DEFAULT_TIP if isinstance(tip, RpcRefused) else quantity(tip)
            self._price = Price(quantity(block["baseFeePerGas"]), paid_tip, nonce, now)
            return self._price


def read_revert(error: RpcRefused) -> ContractError | None:
    """The typed error, where a node's refusal is a revert."""
    body = revert_data({"data": error.data, "message": str(error)})
    if body:
        return decode_revert(body)
    if is_revert(error.code, str(error)):
        return UnknownRevert()
    return None


def cannot_send(error: RpcRefused, call: Call) -> TransactionError:
    """A node's refusal as the error that the caller sees."""
    if read_refusal(str(error)) is Refusal.FUNDS:
        return InsufficientFunds(f"the account cannot pay for {call.label}: {error}")
    return TransactionError(f"{call.label} cannot be sent: {error}")
