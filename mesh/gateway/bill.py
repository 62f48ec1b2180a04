"""What one request costs: charged ahead in steps, written down before it is handed out, corrected at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from chain.units import format_func
from mesh.gateway.billing import Billing, Caller
from mesh.gateway.edge import ClientLeft
from mesh.gateway.errors import ApiFailure
from mesh.gateway.job import Job
from mesh.gateway.schemas import Cost, Usage
from mesh.gateway.sessions import Ended, Event, Failed, Piece
from mesh.payment.accounts.balance import Account, Charge, Tariff


class Bill(Protocol):
    """The running bill of one request. `async with` it around the sessions."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def cover(self, events: Sequence[Event]) -> int:
        """Await before `events` are handed out: how many of them are paid for now, at least one.

        Raises `ApiFailure` when nobody pays for the first.
        """

    async def settle(self) -> None:
        """The request has succeeded: what it cost is final. Await before the end of the answer is sent."""

    def priced(self, usage: Usage) -> Usage:
        """The usage with the final cost."""


class NoBill:
    """Where nobody pays."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def cover(self, events: Sequence[Event]) -> int:
        return len(events)

    async def settle(self) -> None:
        pass

    def priced(self, usage: Usage) -> Usage:
        return usage


class AccountBill:
    """The bill of a request whose key has an account.

    Every session is charged for its own prompt and for every token generated for it, as providers are paid: a request
    with `n` = 2 runs its prompt twice. Entering charges the prompts, before any work is done, in increments for which
    it waits as a stream does; so neither side is ever ahead of the other by more than an increment.
    """

    def __init__(self, billing: Billing, caller: Caller, job: Job) -> None:
        self._billing = billing
        self._caller = caller
        self._holder = caller.holder
        self._job = job
        self._charge = Charge(job.id)
        self._tariff = Tariff(0, billing.config.increment_tokens)
        self._generated = [0] * len(job.sessions)
        self._begun = False
        """Something has been handed out."""
        self._owed = 0
        """What the prompts and all that was handed out cost."""
        self._closed = False

    async def __aenter__(self) -> Self:
        self._charge = self._account.open(self._job.id)
        try:
            tariff = self._tariff = await self._billing.tariff_of(self._job.model)
            prompts = sum(len(session.prompt) + len(session.resumed) for session in self._job.sessions)
            self._billing.limit(self._caller.tokens, prompts, "tokens")
            patient = self._billing.has_agent(self._holder)
            self._owed = tariff.cost(prompts, 0)
            await self._pay(self._owed, ahead=0, patient=patient)
            # Not taken yet: a first token that nobody can pay for is refused before the sessions are opened.
            if self._account.credit < tariff.cost(0, 1):
                await self._billing.await_credit(self._holder, tariff.cost(0, 1), patient=patient)
        except BaseException:
            await self._close(0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._closed:
            await self._close(self._owed if self._is_owed(error) else 0)

    def _is_owed(self, error: BaseException | None) -> bool:
        """Whether an answer that did not reach its end is paid for as far as it went.

        Not when the swarm failed before anything was handed out. But who leaves, or runs out of credit, had the work
        done.
        """
        if self._begun and self._job.stream:
            return True
        left = isinstance(error, asyncio.CancelledError | ClientLeft)
        return self._begun and (left or isinstance(error, ApiFailure))

    async def cover(self, events: Sequence[Event]) -> int:
        if not self._begun and any(isinstance(event, Failed) for event in events):
            return len(events)  # nothing was handed out, nor will be
        fresh = self._fresh_tokens(events)
        price = self._tariff.cost(0, 1)
        ahead = max(self._tariff.step, min(price * sum(fresh), self._tariff.increment))
        covered = 0
        for count in fresh:
            need = count * price
            if covered and need > self._charge.held + self._account.credit:
                break  # what is paid for goes out first; the next call waits
            if need > 0:
                await self._pay(need, ahead=ahead, patient=True)
            else:
                self._account.use(self._charge, need)
            self._owed += need
            self._generated[events[covered].index] += count
            covered += 1
        if self._job.stream and not self._begun:
            await self._write(begun=True)
        self._begun = True
        self._caller.tokens.draw(sum(fresh[:covered]), time.monotonic())
        self._holder.changed.fire()
        return covered

    def _fresh_tokens(self, events: Sequence[Event]) -> list[int]:
        """Tokens that each event adds; the end of a session may correct what its pieces said."""
        known = list(self._generated)
        fresh = []
        for event in events:
            before = known[event.index]
            match event:
                case Piece(index, delta):
                    known[index] += len(delta.tokens)
                case Ended(index, completion):
                    known[index] = completion.completion_tokens
            fresh.append(known[event.index] - before)
        return fresh

    async def settle(self) -> None:
        await self._close(self._owed)

    def priced(self, usage: Usage) -> Usage:
        wei = self._charge.written
        usage.cost = Cost(wei=str(wei), func=format_func(wei).replace(",", ""))
        return usage

    # --- inside ---

    @property
    def _account(self) -> Account:
        return self._holder.account

    async def _pay(self, need: int, *, ahead: int, patient: bool) -> None:
        """Charge `need` wei, and as it goes more for what comes next, up to `ahead` in all; waits for credit.

        What the bill holds already is used first, even if it is not enough: then a payer who follows what is used
        sees that it must pay more, however many requests share the account.
        """
        token = self._tariff.cost(0, 1)
        while True:
            part = min(need, self._charge.held)
            self._account.use(self._charge, part)
            need -= part
            if not need:
                return
            await self._billing.refresh(self._holder)
            credit = self._account.credit
            least = need if credit >= need else min(need, token)
            if self._account.take(self._charge, least, max(need, ahead)) is None:
                await self._billing.await_credit(self._holder, least, patient=patient)
                continue
            await self._write(begun=self._begun and self._job.stream)
            patient = True  # who has paid a part is about to pay the rest

    async def _write(self, *, begun: bool) -> None:
        await self._billing.write(
            self._billing.store.write_charge,
            self._charge.id,
            self._account.payer,
            self._charge.written,
            begun=begun,
            model=self._job.model.name,
            now=int(self._billing.clock()),
        )

    async def _close(self, final: int) -> None:
        """Give back what was not used; written in the order of the other writes, even if we are cancelled meanwhile."""
        self._closed = True
        self._account.settle(self._charge, final)
        written = self._billing.write(
            self._billing.store.settle_charge,
            self._charge.id,
            self._account.payer,
            final,
            model=self._job.model.name,
            now=int(self._billing.clock()),
        )
        self._holder.changed.fire()
        await asyncio.shield(written)
