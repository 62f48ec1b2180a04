"""Accounts that are in use: who calls with which key, and what waits for a change of the account."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from chain.primitives import Address
from mesh.payment.accounts.balance import Account
from mesh.payment.accounts.limits import TokenBucket
from mesh.payment.accounts.ports import Backing


class Signal:
    """Wakes whoever waits at the moment when it fires."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._waiting = 0

    def fire(self) -> None:
        if self._waiting:  # it fires for every token
            self._event.set()
            self._event = asyncio.Event()

    async def wait(self, timeout: float) -> bool:
        """False after `timeout` seconds."""
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True


@dataclass(slots=True)
class Holder:
    """An account that is in use, and who waits for it."""

    account: Account
    signature: bytes | None = None
    """Of the highest voucher."""
    changed: Signal = field(default_factory=Signal)
    """Fires when credit, charges or the number of waiting requests changed."""
    vouchers: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    """Requests that wait for credit."""
    wanted: int = 0
    """Wei that they wait for, together."""
    agents: int = 0
    """Payers' agents that wait for news now."""
    agent_seen: float = -float("inf")
    """When a payer's agent last asked or paid."""
    backing: Backing = field(default_factory=lambda: Backing(0, 0))

    @property
    def pending(self) -> int:
        """Wei that running and waiting requests need beyond what is spent: their prompts, and the first tokens."""
        return self.account.reserved + self.wanted


@dataclass(slots=True)
class Caller:
    """A key that calls, with the account that it spends from and its own limits."""

    key_hash: bytes
    holder: Holder
    requests: TokenBucket
    tokens: TokenBucket
    calls: TokenBucket

    @property
    def payer(self) -> Address:
        return self.holder.account.payer
