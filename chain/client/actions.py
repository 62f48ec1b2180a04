"""Actions: calls that can be carried out or dry-run, with the approvals of FUNC that they need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eth_utils import keccak

from chain import abi
from chain.abi import Event
from chain.client.answers import data
from chain.client.pending import Call, Outcome, PendingTx, Quote
from chain.errors import BadAnswer, RpcRefused

if TYPE_CHECKING:
    from chain.client.core import Core

ALLOWANCES_SLOT = 1
"""Where OpenZeppelin's ERC20 keeps allowances; used for dry runs only, and checked before it is trusted."""
MINED_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """A call at its good end: its transaction, what it emitted, and the approvals that went before it."""

    outcome: Outcome
    events: tuple[Event, ...]
    approvals: tuple[Result, ...] = ()

    @property
    def tx_hash(self) -> str:
        return self.outcome.tx_hash

    @property
    def block(self) -> int:
        return self.outcome.block

    @property
    def gas_used(self) -> int:
        """Of this transaction and its approvals."""
        return self.outcome.gas_used + sum(each.gas_used for each in self.approvals)

    def event(self, name: str) -> Event:
        """The first event of that name. Raises `BadAnswer`."""
        for event in self.events:
            if event.name == name:
                return event
        raise BadAnswer(f"{self.outcome.label} emitted no {name}")


@dataclass(frozen=True, slots=True)
class DryRun:
    """What an action would send, in order, and what each would cost. `exact` is False where an approval is missing
    and the node could not be told to imagine it."""

    steps: tuple[tuple[str, Quote | None], ...]

    @property
    def gas(self) -> int:
        return sum(quote.gas for _, quote in self.steps if quote is not None)

    @property
    def cost(self) -> int:
        """Wei of the native coin, at today's price of gas."""
        return sum(quote.cost for _, quote in self.steps if quote is not None)

    @property
    def exact(self) -> bool:
        return all(quote is not None for _, quote in self.steps)


@dataclass(frozen=True, slots=True)
class Spend:
    """FUNC that a call lets `spender` take from the caller, in wei."""

    spender: str
    amount: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call ready to be sent, and what must be approved before."""

    call: Call
    spend: Spend | None = None


class Action:
    """A call that has not been made: `await action` sends it, `await action.dry_run()` says what it would cost."""

    def __init__(self, core: Core, prepare: Callable[[], Awaitable[Prepared]]) -> None:
        self._core = core
        self._prepare = prepare

    def __await__(self) -> Generator[Any, None, Result]:
        return self.execute().__await__()

    async def prepared(self) -> Prepared:
        """The call as it would be sent now."""
        return await self._prepare()

    async def execute(self, *, key: str | None = None, timeout: float | None = None) -> Result:
        """Send it, after an approval where one is missing, and wait for the end.

        `key` makes it unique for good; `timeout` defaults to the client's. Raises `ContractError` before anything is
        sent where it would revert; else what `Transactor.submit` and `PendingTx.outcome` raise.
        """
        return await self._core.spending.execute(await self._prepare(), key=key, timeout=timeout)

    async def dry_run(self) -> DryRun:
        """Estimate without sending. Raises `ContractError` where it would revert."""
        return await self._core.spending.dry_run(await self._prepare())


@dataclass(slots=True)
class _Allowance:
    """Per spender: one approval at a time, how much is on its way to be taken, and how many are not yet signed."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    in_flight: int = 0
    unsigned: int = 0
    all_signed: asyncio.Event = field(default_factory=asyncio.Event)


class Spending:
    """Carries out actions for one client; approves exactly what is missing, and says so."""

    def __init__(self, core: Core, timeout: float, on_approval: Callable[[str, int, str], None] | None) -> None:
        self._core = core
        self._timeout = timeout
        self._on_approval = on_approval
        self._allowances: dict[str, _Allowance] = {}

    async def execute(self, prepared: Prepared, *, key: str | None = None, timeout: float | None = None) -> Result:
        """Approve what is missing, send, wait for the end."""
        waiting = self._timeout if timeout is None else timeout
        if prepared.spend is None:
            pending = await self._core.signer.submit(prepared.call, key=key)
            return self.result(await pending.outcome(waiting))
        allowance = self._allowances.setdefault(prepared.spend.spender, _Allowance())
        amount = prepared.spend.amount
        async with allowance.lock:
            # A call that an earlier process sent has its approval behind it.
            approval = None
            if not self._core.signer.has_earlier(prepared.call, key):
                approval = await self._approve(prepared.spend, allowance, waiting)
            allowance.in_flight += amount
            allowance.unsigned += 1
            allowance.all_signed.clear()
        try:
            try:
                pending = await self._core.signer.submit(prepared.call, key=key)
            finally:
                allowance.unsigned -= 1
                if not allowance.unsigned:
                    allowance.all_signed.set()
            outcome = await pending.outcome(waiting)
            # With its lower nonce the approval is at least as deep.
            approvals = () if approval is None else (self.result(await approval.outcome(waiting)),)
            return self.result(outcome, approvals)
        finally:
            allowance.in_flight -= amount

    async def _approve(self, spend: Spend, allowance: _Allowance, timeout: float) -> PendingTx | None:
        """Approve exactly `spend`, until that is in a block; None if what is allowed and not on its way suffices.

        What is on its way has a lower nonce than the approval, so it is taken before the allowance is set anew; that is
        why the approval waits until all of it is signed.
        """
        have = await self._core.view("FuncToken", "allowance", self._core.address, spend.spender)
        if have - allowance.in_flight >= spend.amount:
            return None
        if allowance.unsigned:
            await allowance.all_signed.wait()
        call = self._core.call("FuncToken", "approve", spend.spender, spend.amount)
        pending = await self._core.signer.submit(call)
        await pending.wait_mined(min(timeout, MINED_SECONDS))
        if self._on_approval is not None:
            self._on_approval(self._core.name_of(spend.spender), spend.amount, pending.tx_hash)
        return pending

    async def dry_run(self, prepared: Prepared) -> DryRun:
        """Estimate what `execute` would send. Raises `ContractError` where it would revert."""
        spend = prepared.spend
        if spend is None:
            return DryRun(((prepared.call.label, await self._core.signer.pricing.quote(prepared.call)),))
        steps: list[tuple[str, Quote | None]] = []
        overrides: Mapping[str, Any] | None = None
        imagined = True
        if await self._core.view("FuncToken", "allowance", self._core.address, spend.spender) < spend.amount:
            approve = self._core.call("FuncToken", "approve", spend.spender, spend.amount)
            steps.append((approve.label, await self._core.signer.pricing.quote(approve)))
            overrides = self._imagine_allowance(spend)
            imagined = await self._is_imagined(spend, overrides)
        quote = await self._core.signer.pricing.quote(prepared.call, overrides) if imagined else None
        return DryRun((*steps, (prepared.call.label, quote)))

    def _imagine_allowance(self, spend: Spend) -> dict[str, Any]:
        def word(address: str) -> bytes:
            return bytes(12) + bytes.fromhex(address[2:])

        of_owner = keccak(word(self._core.address) + ALLOWANCES_SLOT.to_bytes(32, "big"))
        slot = keccak(word(spend.spender) + of_owner)
        amount = "0x" + spend.amount.to_bytes(32, "big").hex()
        return {self._core.deployment.address("FuncToken"): {"stateDiff": {"0x" + slot.hex(): amount}}}

    async def _is_imagined(self, spend: Spend, overrides: Mapping[str, Any]) -> bool:
        """True if the node takes state overrides and the slot is the right one."""
        function = abi.load("FuncToken").function("allowance")
        request = {
            "to": self._core.deployment.address("FuncToken"),
            "data": "0x" + function.encode([self._core.address, spend.spender]).hex(),
        }
        try:
            answer = await self._core.rpc.call("eth_call", request, "latest", overrides)
        except RpcRefused:
            return False
        return bool(function.decode(data(answer)) == spend.amount)

    def result(self, outcome: Outcome, approvals: tuple[Result, ...] = ()) -> Result:
        """An outcome with its events decoded."""
        return Result(outcome, tuple(abi.decode_logs(self._core.artifacts, outcome.logs)), approvals)
