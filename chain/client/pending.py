"""What a caller sees of a transaction: the call, what it would cost, one on its way, and its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eth_utils import to_canonical_address

from chain.client.answers import quantity
from chain.client.lifecycle import Intent
from chain.errors import StillPending, TransactionError


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does: call data for an address (None creates a contract), in words for people."""

    to: str | None
    data: bytes
    label: str
    value: int = 0
    gas: int | None = None

    @property
    def target(self) -> bytes:
        """The address as bytes; empty to create a contract."""
        return b"" if self.to is None else bytes(to_canonical_address(self.to))


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call would cost now: gas units, wei per gas expected and at most, and wei expected in all."""

    gas: int
    gas_price: int
    max_fee: int

    @property
    def cost(self) -> int:
        return self.gas * self.gas_price


@dataclass(frozen=True, slots=True)
class Outcome:
    """A transaction at its good end. `resumed`: an earlier process had sent it, and this one did not send it again."""

    label: str
    tx_hash: str
    block: int
    gas_used: int
    gas_price: int
    logs: tuple[Mapping[str, Any], ...] = field(repr=False, default=())
    resumed: bool = False

    @property
    def cost(self) -> int:
        """Wei paid for gas."""
        return self.gas_used * self.gas_price


class PendingTx:
    """A transaction on its way. `await pending.outcome()` waits for its end."""

    def __init__(self, intent: Intent, resumed: bool) -> None:
        self.intent = intent
        self.resumed = resumed
        self.mined: asyncio.Event = asyncio.Event()
        self._end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @property
    def tx_hash(self) -> str:
        return "0x" + (self.intent.mined_hash or self.intent.current.hash).hex()

    async def outcome(self, timeout: float | None = None) -> Outcome:
        """Raises `TransactionFailed`, or `StillPending` after `timeout` seconds: it stays in the journal."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._end)
        except TimeoutError:
            raise StillPending(
                f"{self.intent.label} is not confirmed after {timeout:g} s; the journal keeps it, and the next start "
                "looks after it",
                tx_hash=self.tx_hash,
            ) from None

    async def wait_mined(self, timeout: float) -> None:
        """Until it is in a block, however deep. Raises like `outcome`."""
        waiter: asyncio.Future[Any] = asyncio.ensure_future(self.mined.wait())
        ended: asyncio.Future[Any] = self._end
        try:
            await asyncio.wait({waiter, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._end.done():
            self._end.result()
        elif not self.mined.is_set():
            raise StillPending(f"{self.intent.label} is in no block after {timeout:g} s", tx_hash=self.tx_hash)

    def resolve(self, outcome: Outcome | TransactionError) -> None:
        self.mined.set()
        if self._end.done():
            return
        if isinstance(outcome, Outcome):
            self._end.set_result(outcome)
        else:
            self._end.set_exception(outcome)
            self._end.exception()  # seen: nobody may be waiting


def outcome_of(pending: PendingTx, receipt: Mapping[str, Any]) -> Outcome:
    """The good end of a transaction, from its receipt."""
    return Outcome(
        label=pending.intent.label,
        tx_hash=str(receipt["transactionHash"]),
        block=quantity(receipt["blockNumber"]),
        gas_used=quantity(receipt["gasUsed"]),
        gas_price=quantity(receipt.get("effectiveGasPrice", "0x0")),
        logs=tuple(receipt["logs"]),
        resumed=pending.resumed,
    )
