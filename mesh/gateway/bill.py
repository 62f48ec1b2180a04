"""What one request costs: charged as its tokens come, at the price of the epoch in which they come, and for no others.

A session's prompt is charged with its first token; until then the credit for it is only reserved. So a developer pays
nothing for a route that fails, and the gateway owes nothing for it (`RingSession` counts no prompt before its first
token either). What the developer is charged and what the hops are owed are the same events:

    arrived tokens × W_GENERATED + W_PROMPT × prompt tokens (a cached one in part), once for a session that gave any

Tokens arrive at most the ring's window ahead of what is handed out. What has arrived is charged at the end even if its
client has left; so much of it is reserved at the beginning as one step has tokens. Only where nothing could be handed
out before the mesh failed, nothing is charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from chain.units import format_func
from mesh.errors import StorageUnavailable
from mesh.gateway.billing import LATE_SECONDS, Billing
from mesh.gateway.callers import Caller
from mesh.gateway.edge import ClientLeft
from mesh.gateway.job import Job
from mesh.gateway.schemas import Cost, Usage
from mesh.gateway.sessions import Ended, Event, Piece
from mesh.payment.accounts.balance import Account, Charge, Tariff


class Bill(Protocol):
    """The running bill of one request. `async with` it around the sessions."""

    arrived: list[int]
    """Tokens of each session that have reached the gateway: kept by the sessions, final when they are closed."""

    cached: list[int]
    """Of each session's prompt, tokens that were not run: kept by the sessions, final with the first token."""

    @property
    def delivers(self) -> bool:
        """Something has come that is paid for: what failed afterwards does not take it back."""

    @property
    def charged(self) -> int:
        """Wei that are charged; final once it is settled."""

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

    delivers = False
    charged = 0

    def __init__(self, job: Job) -> None:
        self.arrived = [0] * len(job.sessions)
        self.cached = [0] * len(job.sessions)

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
    with `n` = 2 runs its prompt twice.
    """

    def __init__(self, billing: Billing, caller: Caller, job: Job, *, at_once: int) -> None:
        """`at_once` sessions of the job run together."""
        self.arrived = [0] * len(job.sessions)
        self.cached = [0] * len(job.sessions)
        self._billing = billing
        self._caller = caller
        self._holder = caller.holder
        self._job = job
        self._at_once = at_once
        self._charge = Charge(job.id)
        self._tariff = Tariff(0, billing.config.increment_tokens)
        self._prompts = [
            0 if session.resumed_paid else len(session.prompt) + len(session.resumed) for session in job.sessions
        ]
        """Prompt tokens of each session that are not charged yet."""
        self._kept = [0] * len(job.sessions)
        """Wei that are reserved for them."""
        self._generated = [0] * len(job.sessions)
        """Tokens of each session that are charged."""
        self._owed = 0
        """What all that was covered costs; a part of a token that could not be paid for whole is not in it."""
        self._begun = False
        self._closed = False

    async def __aenter__(self) -> Self:
        self._charge = self._account.open(self._job.id)
        try:
            self._tariff = await self._billing.tariff_of(self._job.model)
            following = await self._billing.tariff_of(self._job.model, ahead=1)
            self._billing.limit(self._caller.tokens, sum(self._prompts), "tokens")
            await self._reserve(max(self._tariff, following, key=lambda each: each.price))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._closed:
            left = isinstance(error, asyncio.CancelledError | ClientLeft)
            if self._begun or left:
                self._charge_rest()
            await self._close(undoable=self._begun and not left and not self._job.stream)

    @property
    def delivers(self) -> bool:
        return self._begun

    @property
    def charged(self) -> int:
        return self._charge.written

    async def cover(self, events: Sequence[Event]) -> int:
        self._tariff = await self._billing.tariff_of(self._job.model)
        fresh = self._fresh_tokens(events)
        price = self._tariff.cost(0, 1)
        ahead = max(self._tariff.step, min(price * sum(fresh), self._tariff.increment))
        covered = 0
        for event, count in zip(events, fresh, strict=True):
            need = count * price + self._prompt_cost(event.index, count)
            if covered and need > self._at_hand(event.index):
                break  # what is paid for goes out first; the next call waits
            await self._pay(need, index=event.index if count else None, ahead=ahead)
            self._owed += need
            self._generated[event.index] += count
            covered += 1
            if count and not self._begun:
                self._begun = True
                if self._job.stream:
                    await self._write()
        self._billing.draw(self._caller.tokens, sum(fresh[:covered]))
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
                    known[index] = max(before, completion.completion_tokens, self.arrived[index])
            fresh.append(known[event.index] - before)
        return fresh

    async def settle(self) -> None:
        self._charge_rest()
        await self._close(undoable=not self._job.stream)

    def priced(self, usage: Usage) -> Usage:
        wei = self._charge.written
        usage.cost = Cost(wei=str(wei), func=format_func(wei).replace(",", ""))
        return usage

    # --- inside ---

    @property
    def _account(self) -> Account:
        return self._holder.account

    async def _reserve(self, tariff: Tariff) -> None:
        """Wait for the credit that all prompts, and the first tokens of the sessions that begin, may cost."""
        kept = [tariff.cost(tokens, 0) for tokens in self._prompts]
        first = [
            min(max(tariff.step, tariff.cost(0, 1)), tariff.cost(0, session.max_tokens))
            for session in self._job.sessions[: self._at_once]
        ]
        need = sum(kept) + sum(first)
        while not self._account.reserve(self._charge, need):
            await self._billing.await_credit(self._holder, need)
        self._kept = kept

    def _prompt_cost(self, index: int, tokens: int) -> int:
        """What a session's prompt costs, which is due with the first of its tokens."""
        prompt = self._prompts[index]
        return self._tariff.cost(prompt, 0, min(self.cached[index], prompt)) if tokens else 0

    def _free(self, index: int | None) -> int:
        """What is reserved and not kept for the prompts of other sessions."""
        others = sum(self._kept) - (0 if index is None else self._kept[index])
        return max(0, self._charge.reserved - others)

    def _at_hand(self, index: int) -> int:
        return self._charge.held + self._free(index) + self._account.credit

    async def _pay(self, need: int, *, index: int | None, ahead: int) -> None:
        """Charge `need` wei, and as it goes more for what comes next, up to `ahead` in all; waits for credit.

        `index` is the session whose token it is: then its prompt is in `need`. What the bill holds already is used
        first, even if it is not enough: then a payer who follows what is used sees that it must pay more, however many
        requests share the account.
        """
        token = self._tariff.cost(0, 1)
        while True:
            part = min(need, self._charge.held)
            self._account.use(self._charge, part)
            need -= part
            if not need:
                break
            if free := self._free(index):
                self._account.draw(self._charge, min(free, max(need, ahead)))
                await self._write()
                continue
            await self._billing.refresh(self._holder)
            credit = self._account.credit
            least = need if credit >= need else min(need, token)
            if self._account.take(self._charge, least, max(need, ahead)) is None:
                await self._billing.await_credit(self._holder, least, patient=True)
                continue
            await self._write()
        if index is not None:
            self._prompts[index] = self._kept[index] = 0

    async def _write(self) -> None:
        """Write down what is charged now, before anything is handed out for it.

        A disk without room is waited for as payers are, where something was handed out already. Raises
        `StorageUnavailable`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._billing.config.pause_seconds if self._owed else 0.0)
        while True:
            try:
                await self._billing.write(
                    self._billing.store.write_charge,
                    self._charge.id,
                    self._account.payer,
                    self._charge.written,
                    begun=self._begun and self._job.stream,
                    model=self._job.model.name,
                    now=int(self._billing.clock()),
                )
            except StorageUnavailable:
                if loop.time() + LATE_SECONDS >= deadline:
                    raise
                await asyncio.sleep(LATE_SECONDS)
            else:
                return

    def _charge_rest(self) -> None:
        """Charge what has arrived and was not handed out, as many whole tokens as there is credit for."""
        token = self._tariff.cost(0, 1)
        for index, arrived in enumerate(self.arrived):
            count = max(0, arrived - self._generated[index])
            prompt = self._prompt_cost(index, count)
            if not count:
                continue
            self._kept[index] = self._prompts[index] = 0
            held = self._charge.written - self._owed
            most = held + self._free(None) + self._account.credit
            paid = min(count, max(0, most - prompt) // token) if token else count
            need = min(prompt, most) + paid * token
            drawn = min(max(0, need - held), self._free(None))
            self._account.draw(self._charge, drawn)
            if (missing := need - held - drawn) > 0:
                self._account.take(self._charge, missing, missing)
            self._owed += need
            self._generated[index] += count

    async def _close(self, *, undoable: bool = False) -> None:
        """Give back what was not used; written in the order of the other writes, even if we are cancelled meanwhile.

        What a disk without room does not take is written later: what is on it is at least what was handed out, and
        stands after a crash. Only an answer of which nothing has gone out (`undoable`) fails then, and costs nothing:
        raises `StorageUnavailable`.
        """
        self._closed = True
        self._account.settle(self._charge, self._owed)
        settled = asyncio.ensure_future(self._settle(undoable))
        self._holder.changed.fire()
        if (failure := await asyncio.shield(settled)) is not None:
            raise failure

    async def _settle(self, undoable: bool) -> StorageUnavailable | None:
        billing = self._billing
        settle = partial(
            billing.store.settle_charge,
            self._charge.id,
            self._account.payer,
            model=self._job.model.name,
            now=int(billing.clock()),
        )
        try:
            await billing.write(settle, amount=self._owed)
        except StorageUnavailable as error:
            if undoable:
                self._account.charged -= self._owed
                self._owed = self._charge.written = self._charge.used = 0
                self._begun = False
            billing.write_late(settle, amount=self._owed)
            return error if undoable else None
        return None
