"""Sends transactions: estimates, signs with a nonce from the journal, broadcasts, and looks after all until their end.

The shell around `lifecycle.decide`: one task polls the chain for every transaction under way, in one batch. Several
may be sent at once; each gets its own nonce. What a killed process left behind is picked up at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from chain.client import lifecycle
from chain.client.answers import quantity
from chain.client.journal import Journal
from chain.client.lifecycle import Attempt, Intent, Policy, Refusal, read_refusal
from chain.client.look import look
from chain.client.pricing import Pricing, cannot_send, read_revert
from chain.client.rpc import Rpc
from chain.client.tickets import Call, Outcome, Ticket, outcome_of
from chain.errors import (
    BadAnswer,
    ContractError,
    FeeTooHigh,
    JournalError,
    NodeError,
    RpcRefused,
    StillPending,
    TransactionError,
    TransactionFailed,
)
from chain.transactions import INTRINSIC_GAS, Fees, SignedTransaction, Transaction
from chain.wallet import Account

log = logging.getLogger(__name__)
GAS_MARGIN_PERCENT = 25


class Transactor:
    """Sends for one account. `async with Transactor(…)`; its journal is used by it alone in this process."""

    def __init__(
        self,
        rpc: Rpc,
        chain_id: int,
        account: Account,
        journal: Journal,
        policy: Policy | None = None,
        *,
        poll: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.account = account
        self.policy = policy or Policy()
        self.journal = journal
        self.recovered: list[Ticket] = []
        """What earlier sessions left unfinished; handed out once to a call that is the same."""
        self.pricing = Pricing(rpc, account.address)
        self._rpc = rpc
        self._chain_id = chain_id
        self._poll = poll
        self._clock = clock
        self._tickets: dict[int, Ticket] = {}
        self._displaced: dict[int, float] = {}
        self._quiet_until: dict[int, float] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Transactor:
        for intent in self.journal.adopt(self.journal.orphans(self.account.address)):
            log.info("taking over %s (nonce %d, %s)", intent.label, intent.nonce, intent.state)
            self.recovered.append(self._track(intent, resumed=True))
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for ticket in self._tickets.values():
            ticket.resolve(StillPending(f"{ticket.intent.label} was not awaited", tx_hash=ticket.tx_hash))

    # --- sending ---

    async def send(self, call: Call, *, key: str | None = None, timeout: float | None = None) -> Outcome:
        """Send and wait for the end. Raises what `submit` and `Ticket.outcome` raise."""
        ticket = await self.submit(call, key=key)
        return await ticket.outcome(timeout)

    async def submit(self, call: Call, *, key: str | None = None) -> Ticket:
        """Sign, write down, and hand to a node. The same call that an earlier process left unfinished is not repeated.

        `key` makes a call unique for good: a second one with the same key is the first one.
        Raises `ContractError` (it would revert), `InsufficientFunds`, `FeeTooHigh`, `TransactionError` (the node will
        never take it), `NodeError`, `JournalError`.
        """
        to = call.target
        earlier = self._earlier(call, to, key)
        if earlier is not None:
            return earlier
        gas = call.gas or (await self.pricing.estimate(call)) * (100 + GAS_MARGIN_PERCENT) // 100
        price = await self.pricing.now()
        fees = lifecycle.first_fees(price.base_fee, price.tip, self.policy.max_fee)
        if fees is None:
            raise FeeTooHigh(
                f"gas costs {price.base_fee + price.tip} wei now, above the limit of {self.policy.max_fee}"
            )

        def sign(nonce: int) -> tuple[SignedTransaction, Fees]:
            return self._sign(nonce, fees, gas, to, call.value, call.data), fees

        intent = self.journal.record_signed(
            key=key,
            sender=self.account.address,
            to=to,
            data=call.data,
            value=call.value,
            gas=gas,
            label=call.label,
            floor=price.nonce,
            sign=sign,
        )
        ticket = self._track(intent, resumed=False)
        # From here on it must be looked after, also when our caller gives up: that is the task's business.
        self._quiet_until[intent.id] = self._clock() + self.policy.resend_after
        try:
            refusal = await self._broadcast(ticket, intent.current)
        finally:
            self._quiet_until.pop(intent.id, None)
            self._wake.set()
        if refusal is not None and refusal[0] in (Refusal.FUNDS, Refusal.OTHER):
            ticket.intent = self.journal.record_refused(ticket.intent)
            self._tickets.pop(intent.id, None)
            error = cannot_send(refusal[1], call)
            ticket.resolve(error)
            raise error from refusal[1]
        return ticket

    def has_earlier(self, call: Call, key: str | None = None) -> bool:
        """True if `submit` would not send this call, because it was sent before."""
        if key is not None:
            return self.journal.by_key(self.account.address, key) is not None
        payload = (self.account.address, call.target, call.value, call.data)
        return any(ticket.intent.payload == payload and ticket.intent.key is None for ticket in self.recovered)

    def _earlier(self, call: Call, to: bytes, key: str | None) -> Ticket | None:
        payload = (self.account.address, to, call.value, call.data)
        if key is not None:
            intent = self.journal.by_key(self.account.address, key)
            if intent is not None:
                if intent.payload != payload:
                    raise JournalError(f"the key {key!r} stands for another call: {intent.label}")
                if intent.session != self.journal.session and not intent.state.final:
                    raise JournalError(f"another process is sending {intent.label} (key {key!r})")
                ticket = self._tickets.get(intent.id) or self._track(intent, resumed=True)
                self.recovered = [each for each in self.recovered if each.intent.id != intent.id]
                self._wake.set()
                return ticket
            return None
        for ticket in self.recovered:
            if ticket.intent.payload == payload and ticket.intent.key is None:
                self.recovered.remove(ticket)
                return ticket
        return None

    def _sign(self, nonce: int, fees: Fees, gas: int, to: bytes, value: int, body: bytes) -> SignedTransaction:
        return self.account.sign_transaction(Transaction(self._chain_id, nonce, fees, gas, to, value, body))

    def _track(self, intent: Intent, *, resumed: bool) -> Ticket:
        ticket = Ticket(intent, resumed)
        self._tickets[intent.id] = ticket
        return ticket

    async def _broadcast(self, ticket: Ticket, attempt: Attempt) -> tuple[Refusal, RpcRefused] | None:
        """Hand one attempt to the node. What it refused, if it did; trouble on the way is left to the next round."""
        try:
            await self._rpc.call("eth_sendRawTransaction", "0x" + attempt.raw.hex())
        except RpcRefused as error:
            refusal = read_refusal(str(error))
            if refusal is not Refusal.KNOWN:
                log.info("%s: the node says %r", ticket.intent.label, str(error))
                if refusal is Refusal.FEE_TOO_LOW:
                    await self._replace(ticket, attempt.fees)
                return refusal, error
        except NodeError as error:
            log.warning("%s may or may not have been sent: %s", ticket.intent.label, error)
            return None
        ticket.intent = self.journal.record_sent(ticket.intent, attempt)
        return None

    async def _replace(self, ticket: Ticket, before: Fees) -> None:
        price = await self.pricing.now()
        fees = lifecycle.raised(before, price.base_fee, self.policy.max_fee)
        if fees is None or len(ticket.intent.attempts) >= self.policy.max_attempts:
            return
        await self._send_again(ticket, fees)

    async def _send_again(self, ticket: Ticket, fees: Fees) -> None:
        intent = ticket.intent
        signed = self._sign(intent.nonce, fees, intent.gas, intent.to, intent.value, intent.data)
        ticket.intent = self.journal.record_replacement(intent, signed, fees)
        await self._broadcast(ticket, ticket.intent.current)

    # --- looking after ---

    async def _run(self) -> None:
        try:
            failures = 0
            while True:
                self._wake.clear()
                live = list(self._tickets.values())
                wait: float | None = None
                if live:
                    try:
                        await self._round(live)
                        failures, wait = 0, self._poll
                    except (NodeError, BadAnswer) as error:
                        failures += 1
                        wait = min(30.0, self._poll * 2 ** min(failures, 8))
                        log.warning("cannot look after %d transactions now: %s", len(live), error)
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # A bug or a full disk: whoever waits must hear of it now, not at a deadline.
            for ticket in self._tickets.values():
                ticket.resolve(TransactionError(f"looking after transactions failed: {error}", tx_hash=ticket.tx_hash))
            raise

    async def _round(self, live: Sequence[Ticket]) -> None:
        hashes = [attempt.hash for ticket in live for attempt in ticket.intent.attempts]
        view, receipts = await look(self._rpc, self.account.address, hashes, self.policy.confirmations)
        for ticket in live:
            intent = ticket.intent
            if intent.state.final:
                await self._recall(ticket, receipts)
                continue
            if self._quiet_until.get(intent.id, 0) > self._clock():
                continue
            unknown = any(each.hash not in receipts for each in intent.attempts)
            step = lifecycle.decide(intent, view, self.policy, self._clock())
            if unknown and not isinstance(step, lifecycle.Finish | lifecycle.Mined):
                continue  # the node could not tell about every attempt: nothing may be concluded from silence
            await self._carry_out(ticket, step, receipts)
        await self._fill_gap(view.nonce)

    async def _recall(self, ticket: Ticket, receipts: Mapping[bytes, Mapping[str, Any] | None]) -> None:
        """Answer for a call that an earlier session brought to its end."""
        self._tickets.pop(ticket.intent.id, None)
        receipt = receipts.get(ticket.intent.mined_hash or b"")
        if receipt is None:
            message = (
                f"{ticket.intent.label} ended in block {ticket.intent.block_number}, which this node does not know"
            )
            ticket.resolve(TransactionError(message, tx_hash=ticket.tx_hash))
        elif quantity(receipt["status"]) == 1:
            ticket.resolve(outcome_of(ticket, receipt))
        else:
            ticket.resolve(await self._failure(ticket, receipt))

    async def _carry_out(
        self, ticket: Ticket, step: lifecycle.Step, receipts: Mapping[bytes, Mapping[str, Any] | None]
    ) -> None:
        intent = ticket.intent
        if not isinstance(step, lifecycle.Renumber):
            self._displaced.pop(intent.id, None)
        match step:
            case lifecycle.Wait():
                pass
            case lifecycle.Broadcast(attempt):
                refusal = await self._broadcast(ticket, attempt)
                if refusal is not None:
                    self._quiet_until[intent.id] = self._clock() + min(self.policy.resend_after, 5.0)
            case lifecycle.Replace(fees):
                log.info("%s is stuck: replacing it with higher fees", intent.label)
                await self._send_again(ticket, fees)
            case lifecycle.Mined(seen):
                ticket.intent = self.journal.record_mined(intent, seen)
                ticket.mined.set()
            case lifecycle.Lost():
                log.warning("%s was reorganised away: sending it again", intent.label)
                ticket.intent = self.journal.record_lost(intent)
                self._wake.set()
            case lifecycle.Renumber():
                since = self._displaced.setdefault(intent.id, self._clock())
                if self._clock() - since >= self.policy.renumber_after:
                    await self._renumber(ticket)
            case lifecycle.Finish(seen):
                ticket.intent = self.journal.record_end(intent, seen)
                self._tickets.pop(intent.id, None)
                receipt = receipts[seen.hash]
                assert receipt is not None  # `seen` was made from it
                if seen.succeeded:
                    ticket.resolve(outcome_of(ticket, receipt))
                else:
                    ticket.resolve(await self._failure(ticket, receipt))

    async def _renumber(self, ticket: Ticket) -> None:
        intent = ticket.intent
        log.warning("nonce %d was used by another transaction: signing %s again", intent.nonce, intent.label)
        self.pricing.forget()
        price = await self.pricing.now()
        fees = lifecycle.first_fees(price.base_fee, price.tip, self.policy.max_fee) or intent.current.fees

        def sign(nonce: int) -> tuple[SignedTransaction, Fees]:
            return self._sign(nonce, fees, intent.gas, intent.to, intent.value, intent.data), fees

        self._displaced.pop(intent.id, None)
        ticket.intent = self.journal.record_renumbered(intent, price.nonce, sign)
        await self._broadcast(ticket, ticket.intent.current)

    async def _fill_gap(self, nonce: int) -> None:
        """Later transactions wait for one nonce: use it up, or send again what a deep reorganisation has undone."""
        address = self.account.address
        if lifecycle.gap(nonce, sorted(self.journal.held_nonces(address))) is None:
            return
        ended = self.journal.ended_with(address, nonce)
        if ended is not None:
            log.warning("%s was confirmed and is no longer: sending it again", ended.label)
            attempt = next(each for each in ended.attempts if each.hash == ended.mined_hash)
            answer = (await self._rpc.batch([("eth_sendRawTransaction", ("0x" + attempt.raw.hex(),))]))[0]
            if isinstance(answer, RpcRefused):
                log.info("%s: the node says %r", ended.label, str(answer))
            return
        self.pricing.forget()
        if (await self.pricing.now()).nonce > nonce:
            return  # somebody's transaction waits there
        await self.submit(Call(address, b"", "use up a nonce", gas=INTRINSIC_GAS))

    async def _failure(self, ticket: Ticket, receipt: Mapping[str, Any]) -> TransactionFailed:
        intent = ticket.intent
        request = {
            "from": intent.sender,
            "data": "0x" + intent.data.hex(),
            "value": hex(intent.value),
            "gas": hex(intent.gas),
        }
        if intent.to:
            request["to"] = "0x" + intent.to.hex()
        reason: ContractError | None = None
        number = quantity(receipt["blockNumber"])
        for block in (number, number - 1):
            try:
                await self._rpc.call("eth_call", request, hex(block))
            except RpcRefused as error:
                reason = read_revert(error)
            except NodeError:
                break
            if reason is not None:
                break
        why = f": {reason}" if reason is not None else ", and the node cannot tell why (out of gas?)"
        return TransactionFailed(f"{intent.label} failed{why}", tx_hash=ticket.tx_hash, reason=reason)
