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
from chain.client.chain_snapshot import chain_snapshot
from chain.client.journal import Journal
from chain.client.lifecycle import Attempt, Intent, Policy, Refusal, read_refusal
from chain.client.pending import Call, Outcome, PendingTx, outcome_of
from chain.client.pricing import Pricing, cannot_send, read_revert
from chain.client.rpc import Rpc
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
        self.recovered: list[PendingTx] = []
        """What earlier sessions left unfinished; handed out once to a call that is the same."""
        self.pricing = Pricing(rpc, account.address)
        self._rpc = rpc
        self._chain_id = chain_id
        self._poll = poll
        self._clock = clock
        self._pending: dict[int, PendingTx] = {}
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
        for pending in self._pending.values():
            pending.resolve(StillPending(f"{pending.intent.label} was not awaited", tx_hash=pending.tx_hash))

    # --- sending ---

    async def send(self, call: Call, *, key: str | None = None, timeout: float | None = None) -> Outcome:
        """Send and wait for the end. Raises what `submit` and `PendingTx.outcome` raise."""
        pending = await self.submit(call, key=key)
        return await pending.outcome(timeout)

    async def submit(self, call: Call, *, key: str | None = None) -> PendingTx:
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
        pending = self._track(intent, resumed=False)
        # From here on it must be looked after, also when our caller gives up: that is the task's business.
        self._quiet_until[intent.id] = self._clock() + self.policy.resend_after
        try:
            refusal = await self._broadcast(pending, intent.current)
        finally:
            self._quiet_until.pop(intent.id, None)
            self._wake.set()
        if refusal is not None and refusal[0] in (Refusal.FUNDS, Refusal.OTHER):
            pending.intent = self.journal.record_refused(pending.intent)
            self._pending.pop(intent.id, None)
            error = cannot_send(refusal[1], call)
            pending.resolve(error)
            raise error from refusal[1]
        return pending

    def has_earlier(self, call: Call, key: str | None = None) -> bool:
        """True if `submit` would not send this call, because it was sent before."""
        if key is not None:
            return self.journal.by_key(self.account.address, key) is not None
        payload = (self.account.address, call.target, call.value, call.data)
        return any(pending.intent.payload == payload and pending.intent.key is None for pending in self.recovered)

    def _earlier(self, call: Call, to: bytes, key: str | None) -> PendingTx | None:
        payload = (self.account.address, to, call.value, call.data)
        if key is not None:
            intent = self.journal.by_key(self.account.address, key)
            if intent is not None:
                if intent.payload != payload:
                    raise JournalError(f"the key {key!r} stands for another call: {intent.label}")
                if intent.session != self.journal.session and not intent.state.final:
                    raise JournalError(f"another process is sending {intent.label} (key {key!r})")
                pending = self._pending.get(intent.id) or self._track(intent, resumed=True)
                self.recovered = [each for each in self.recovered if each.intent.id != intent.id]
                self._wake.set()
                return pending
            return None
        for pending in self.recovered:
            if pending.intent.payload == payload and pending.intent.key is None:
                self.recovered.remove(pending)
                return pending
        return None

    def _sign(self, nonce: int, fees: Fees, gas: int, to: bytes, value: int, body: bytes) -> SignedTransaction:
        return self.account.sign_transaction(Transaction(self._chain_id, nonce, fees, gas, to, value, body))

    def _track(self, intent: Intent, *, resumed: bool) -> PendingTx:
        pending = PendingTx(intent, resumed)
        self._pending[intent.id] = pending
        return pending

    async def _broadcast(self, pending: PendingTx, attempt: Attempt) -> tuple[Refusal, RpcRefused] | None:
        """Hand one attempt to the node. What it refused, if it did; trouble on the way is left to the next round."""
        try:
            await self._rpc.call("eth_sendRawTransaction", "0x" + attempt.raw.hex())
        except RpcRefused as error:
            refusal = read_refusal(str(error))
            if refusal is not Refusal.KNOWN:
                log.info("%s: the node says %r", pending.intent.label, str(error))
                if refusal is Refusal.FEE_TOO_LOW:
                    await self._replace(pending, attempt.fees)
                return refusal, error
        except NodeError as error:
            log.warning("%s may or may not have been sent: %s", pending.intent.label, error)
            return None
        pending.intent = self.journal.record_sent(pending.intent, attempt)
        return None

    async def _replace(self, pending: PendingTx, before: Fees) -> None:
        price = await self.pricing.now()
        fees = lifecycle.raised(before, price.base_fee, self.policy.max_fee)
        if fees is None or len(pending.intent.attempts) >= self.policy.max_attempts:
            return
        await self._send_again(pending, fees)

    async def _send_again(self, pending: PendingTx, fees: Fees) -> None:
        intent = pending.intent
        signed = self._sign(intent.nonce, fees, intent.gas, intent.to, intent.value, intent.data)
        pending.intent = self.journal.record_replacement(intent, signed, fees)
        await self._broadcast(pending, pending.intent.current)

    # --- looking after ---

    async def _run(self) -> None:
        try:
            failures = 0
            while True:
                self._wake.clear()
                live = list(self._pending.values())
                wait: float | None = None
                if live:
                    try:
                        await self._round(live)
                        failures, wait = 0, self._poll
                    except (NodeError, BadAnswer, JournalError) as error:
                        # A full disk, too, is over some time: what is under way is looked after then.
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
            # A bug: whoever waits must hear of it now, not at a deadline.
            for pending in self._pending.values():
                pending.resolve(
                    TransactionError(f"looking after transactions failed: {error}", tx_hash=pending.tx_hash)
                )
            raise

    async def _round(self, live: Sequence[PendingTx]) -> None:
        hashes = [attempt.hash for pending in live for attempt in pending.intent.attempts]
        view, receipts = await chain_snapshot(self._rpc, self.account.address, hashes, self.policy.confirmations)
        for pending in live:
            intent = pending.intent
            if intent.state.final:
                await self._recall(pending, receipts)
                continue
            if self._quiet_until.get(intent.id, 0) > self._clock():
                continue
            unknown = any(each.hash not in receipts for each in intent.attempts)
            step = lifecycle.decide(intent, view, self.policy, self._clock())
            if unknown and not isinstance(step, lifecycle.Finish | lifecycle.Mined):
                continue  # the node could not tell about every attempt: nothing may be concluded from silence
            await self._carry_out(pending, step, receipts)
        await self._fill_gap(view.nonce)

    async def _recall(self, pending: PendingTx, receipts: Mapping[bytes, Mapping[str, Any] | None]) -> None:
        """Answer for a call that an earlier session brought to its end."""
        self._pending.pop(pending.intent.id, None)
        receipt = receipts.get(pending.intent.mined_hash or b"")
        if receipt is None:
            message = (
                f"{pending.intent.label} ended in block {pending.intent.block_number}, which this node does not know"
            )
            pending.resolve(TransactionError(message, tx_hash=pending.tx_hash))
        elif quantity(receipt["status"]) == 1:
            pending.resolve(outcome_of(pending, receipt))
        else:
            pending.resolve(await self._failure(pending, receipt))

    async def _carry_out(
        self, pending: PendingTx, step: lifecycle.Step, receipts: Mapping[bytes, Mapping[str, Any] | None]
    ) -> None:
        intent = pending.intent
        if not isinstance(step, lifecycle.Renumber):
            self._displaced.pop(intent.id, None)
        match step:
            case lifecycle.Wait():
                pass
            case lifecycle.Broadcast(attempt):
                refusal = await self._broadcast(pending, attempt)
                if refusal is not None:
                    self._quiet_until[intent.id] = self._clock() + min(self.policy.resend_after, 5.0)
            case lifecycle.Replace(fees):
                log.info("%s is stuck: replacing it with higher fees", intent.label)
                await self._send_again(pending, fees)
            case lifecycle.Mined(seen):
                pending.intent = self.journal.record_mined(intent, seen)
                pending.mined.set()
            case lifecycle.Lost():
                log.warning("%s was reorganised away: sending it again", intent.label)
                pending.intent = self.journal.record_lost(intent)
                self._wake.set()
            case lifecycle.Renumber():
                since = self._displaced.setdefault(intent.id, self._clock())
                if self._clock() - since >= self.policy.renumber_after:
                    await self._renumber(pending)
            case lifecycle.Finish(seen):
                pending.intent = self.journal.record_end(intent, seen)
                self._pending.pop(intent.id, None)
                receipt = receipts[seen.hash]
                assert receipt is not None  # `seen` was made from it
                if seen.succeeded:
                    pending.resolve(outcome_of(pending, receipt))
                else:
                    pending.resolve(await self._failure(pending, receipt))

    async def _renumber(self, pending: PendingTx) -> None:
        intent = pending.intent
        log.warning("nonce %d was used by another transaction: signing %s again", intent.nonce, intent.label)
        self.pricing.forget()
        price = await self.pricing.now()
        fees = lifecycle.first_fees(price.base_fee, price.tip, self.policy.max_fee) or intent.current.fees

        def sign(nonce: int) -> tuple[SignedTransaction, Fees]:
            return self._sign(nonce, fees, intent.gas, intent.to, intent.value, intent.data), fees

        self._displaced.pop(intent.id, None)
        pending.intent = self.journal.record_renumbered(intent, price.nonce, sign)
        await self._broadcast(pending, pending.intent.current)

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

    async def _failure(self, pending: PendingTx, receipt: Mapping[str, Any]) -> TransactionFailed:
        intent = pending.intent
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
        return TransactionFailed(f"{intent.label} failed{why}", tx_hash=pending.tx_hash, reason=reason)
