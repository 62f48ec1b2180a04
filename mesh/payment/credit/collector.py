"""The provider's collector of vouchers: who may open sessions, what they owe, receipts out and vouchers in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from chain import vouchers
from chain.primitives import checksummed, key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher, SignatureError
from chain.wallet import Account
from mesh.errors import BadRecord, ProtocolViolation
from mesh.identity import Identity
from mesh.payment.credit.line import GENESIS, CreditLine, EpochUnits, Pair
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import ChainView, CreditTerms, NotAccepted, accept_binding
from mesh.payment.credit.units import W_GENERATED, SessionMeter
from mesh.wire.messages import Message
from mesh.wire.paying import Receipt, Unwelcome, Voucher, Welcome

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.05
FREE_POSITIONS = 2
"""Positions that a session may have run ahead of what its gateway knows when it closes."""
REPLAY_CREDITS = 4
"""Tokens that may be replayed for nothing, in credits, beyond as many as were paid for."""


@dataclass(slots=True)
class Customer:
    """A gateway that has introduced itself on one control channel."""

    peer: str
    signer: str
    line: CreditLine
    tell: Callable[[Message], None]
    receipted_at: float = 0.0
    stalled_since: float | None = None
    dropped: bool = False
    pardoned_at: float = 0.0
    """When one who was dropped gets another chance."""
    replayed: int = 0
    last: Receipt | None = None
    """The newest receipt, sent again to a gateway that comes back."""
    kept: int = 0
    """Units of the credit that prompts under way still need."""
    large: Bill | None = None
    """The session whose prompt is larger than the credit, and runs nevertheless."""


@dataclass(slots=True)
class Bill:
    """What one session at this hop is worth."""

    customer: Customer
    meter: SessionMeter
    blocks: int
    runs_prompt: bool = False
    """A part of the prompt has run, and the rest may."""
    kept: int = 0
    """What it still needs of the credit for that."""

    def has_room(self, processed: int) -> bool:
        """Whether positions below `processed` may run now.

        A gateway signs for a prompt only when its first token is there. So a prompt begins when there is credit for all
        of it; one that is larger than the credit when none such runs. A gateway that never pays costs the credit, and
        one such prompt.
        """
        if self.runs_prompt:
            return True
        customer, fed = self.customer, self.meter.fed
        begins = not self.meter.processed
        units = self.price_of(max(processed, fed) if begins else processed)
        if customer.line.has_room(units + customer.kept):
            return True
        return begins and units > customer.line.credit and customer.large is None and customer.line.has_room(0)

    def begin(self, processed: int) -> int:
        """Units that running positions below `processed` adds; they count as running."""
        if not self.meter.processed and processed < self.meter.fed:
            self._keep(self.price_of(self.meter.fed))
        units = self.blocks * self.meter.advance(processed)
        self.customer.line.begin(units)
        if self.runs_prompt:
            done = min(units, self.kept)
            self.kept -= done
            self.customer.kept -= done
            if processed >= self.meter.fed:
                self._let_go()
        return units

    def _keep(self, units: int) -> None:
        self.runs_prompt = True
        if self.customer.line.has_room(units + self.customer.kept):
            self.kept = units
            self.customer.kept += units
        else:
            self.customer.large = self

    def _let_go(self) -> None:
        self.runs_prompt = False
        self.customer.kept -= self.kept
        self.kept = 0
        if self.customer.large is self:
            self.customer.large = None

    def price_of(self, processed: int) -> int:
        """Units that `begin` would add."""
        ahead = SessionMeter(self.meter.prompt, self.meter.fed, max(self.meter.processed, processed))
        return self.blocks * (ahead.tokens - self.meter.tokens)

    def close(self, received: int) -> None:
        """The gateway knows of `received` positions; what ran beyond is not waited for, within bounds."""
        self._let_go()
        known = SessionMeter(self.meter.prompt, self.meter.fed, min(received, self.meter.processed))
        rest = self.blocks * (self.meter.tokens - known.tokens)
        if rest > 0:
            self.customer.line.excuse(rest, FREE_POSITIONS * W_GENERATED * self.blocks)


class VoucherCollector:
    """One provider's books. `run` beside the service that asks it."""

    def __init__(
        self,
        *,
        provider: str,
        model_id: int,
        blocks: int,
        identity: Identity,
        account: Account,
        journal: PaymentJournal,
        chain: ChainView,
        terms: CreditTerms | None = None,
    ) -> None:
        self.terms = terms or CreditTerms()
        self.provider = provider
        self.model_id = model_id
        self._blocks = blocks
        self._identity = identity
        self._account = account
        self._journal = journal
        self._chain = chain
        self._customers: dict[str, Customer] = {}
        self._nudge = asyncio.Event()
        self.release: Callable[[Customer], None] = lambda customer: None
        """Called when a customer has room again."""
        self.drop: Callable[[Customer], None] = lambda customer: None
        """Called when a customer has not paid in time."""

    # --- introductions ---

    async def greet(self, peer: str, data: bytes, tell: Callable[[Message], None]) -> None:
        """Answer a `Hello`: check the binding against the chain and tell `Welcome` or `Unwelcome`."""
        try:
            binding = accept_binding(data, peer=peer, role="gateway", domain=self._chain.domain)
            await self._chain.check_gateway(binding)
            pair = Pair(binding.id, self.provider, self.model_id)
            rival = next((c for c in self._customers.values() if c.line.pair == pair and c.peer != peer), None)
            if rival is not None:
                raise NotAccepted(f"gateway {binding.id!r} is here already, as peer {rival.peer}")
        except (BadRecord, NotAccepted) as error:
            logger.warning("gateway %s is not accepted: %s", peer, error)
            tell(Unwelcome("not_accepted", str(error)[:2000], 5000))
            return
        known = self._customers.get(peer)
        if known is None or known.line.pair != pair:
            line, last = await asyncio.to_thread(self._load, pair)
            known = Customer(peer, binding.address, line, tell, last=last)
        known.tell, known.signer = tell, binding.address
        self._customers[peer] = known
        known.line.turn(self._chain.epoch)
        tell(Welcome(self.provider, self.model_id, self.terms.tokens))
        if known.last is not None and known.last.epoch == known.line.epoch:
            tell(known.last)

    def _load(self, pair: Pair) -> tuple[CreditLine, Receipt | None]:
        """What an earlier process left: a line with the newest epoch, and its last receipt."""
        line = CreditLine(pair, self.terms.tokens * self._blocks)
        line.sequence, line.link = self._journal.chain("held", pair)
        for slot in self._journal.slots("held", pair=pair):
            line.epoch = slot.epoch
            line.epochs = {slot.epoch: EpochUnits(slot.receipt_units, slot.voucher_units)}
        # How much of that was excused is forgotten. Waiting for what the gateway never had would be for ever.
        line.doubtful = line.claimed
        rows = self._journal.receipts("held", pair)[-2:]
        if not rows:
            return line, None
        previous = rows[0][3] if len(rows) == 2 else GENESIS
        sequence, epoch, units, link, signature = rows[-1]
        return line, Receipt(epoch, sequence, units, previous, signature, self._identity.sign(link))

    def customer(self, peer: str) -> Customer | None:
        return self._customers.get(peer)

    def leave(self, peer: str, tell: Callable[[Message], None]) -> None:
        """Its control channel has ended. What it owes is kept as long as this process lives."""
        known = self._customers.get(peer)
        if known is not None and known.tell == tell:
            known.tell = lambda message: None

    def open(self, customer: Customer, prompt: int, fed: int, blocks: int) -> Bill:
        """The bill of a new session. Raises `NotAccepted` when the customer has used up its credit."""
        if customer.dropped:
            raise NotAccepted(
                f"{customer.line.unpaid} units are unpaid, more than the credit of {customer.line.credit}: "
                "sign a voucher for the last receipt"
            )
        meter = SessionMeter(prompt, fed)
        allowed = customer.line.paid // max(1, self._blocks) + REPLAY_CREDITS * self.terms.tokens
        if customer.replayed + meter.replayed > allowed:
            raise NotAccepted("more is resumed here than was ever paid for")
        customer.replayed += meter.replayed
        return Bill(customer, meter, blocks)

    def finish(self, bill: Bill, begun: int, done: int) -> None:
        """Work that was begun has ended; `done` of its units count."""
        line = bill.customer.line
        line.finish(begun, done)
        if 4 * line.open >= line.credit:
            self._nudge.set()

    def wait(self, customer: Customer) -> None:
        """Work waits for a voucher: ask for one at once."""
        if customer.stalled_since is None:
            customer.stalled_since = time.monotonic()
        customer.receipted_at = 0.0
        self._nudge.set()

    # --- vouchers ---

    async def voucher(self, peer: str, message: Voucher) -> None:
        """Write a voucher down and count it. Raises `ProtocolViolation` for one that is not the gateway's."""
        customer = self._customers.get(peer)
        if customer is None:
            raise ProtocolViolation("a voucher came before an introduction", peer=peer)
        pair = customer.line.pair
        if not customer.line.check(message.epoch, message.units):
            return
        signed = ContributionVoucher(
            key_of(pair.gateway), key_of(pair.provider), pair.model_id, message.epoch, message.units
        )
        try:
            signer = vouchers.recover(vouchers.digest(self._chain.domain, signed), message.signature)
        except SignatureError as error:
            raise ProtocolViolation(f"a voucher with a bad signature: {error}", peer=peer) from error
        if checksummed(signer) != customer.signer:
            raise ProtocolViolation("a voucher that the gateway's key did not sign", peer=peer)
        await asyncio.to_thread(
            self._journal.record_voucher, "held", pair, peer, message.epoch, message.units, message.signature
        )
        customer.line.accept(message.epoch, message.units)
        customer.stalled_since, customer.dropped = None, False
        self.release(customer)

    # --- receipts ---

    async def run(self) -> NoReturn:
        """Send receipts, and drop who does not pay, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._nudge.wait()
            self._nudge.clear()
            now, epoch = time.monotonic(), self._chain.epoch
            for customer in tuple(self._customers.values()):
                customer.line.turn(epoch)
                if self._receipt_due(customer, now):
                    await self._send_receipt(customer, now)
                if customer.large is not None and customer.stalled_since is not None:
                    customer.stalled_since = now  # what is unpaid may be the prompt that still runs
                stalled = customer.stalled_since
                if stalled is not None and now - stalled > self.terms.pause_seconds and not customer.dropped:
                    customer.dropped = True
                    customer.pardoned_at = now + customer.line.pardon_after(self.terms.pause_seconds)
                    logger.warning(
                        "gateway %s has not paid for %d units in %g s: its sessions are dropped",
                        customer.line.pair.gateway,
                        customer.line.unpaid,
                        self.terms.pause_seconds,
                    )
                    self.drop(customer)
                elif customer.dropped and now >= customer.pardoned_at:
                    customer.line.pardon()
                    customer.stalled_since, customer.dropped = None, False

    async def flush(self, seconds: float) -> None:
        """Send what receipts are due and wait until all is paid for, at most `seconds`."""
        deadline = time.monotonic() + seconds
        for customer in tuple(self._customers.values()):
            customer.receipted_at = 0.0
        self._nudge.set()
        while any(c.line.claimed for c in self._customers.values()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)

    def _receipt_due(self, customer: Customer, now: float) -> bool:
        line = customer.line
        if not line.open:
            return False
        return 4 * line.open >= line.credit or now - customer.receipted_at >= self.terms.receipt_seconds

    async def _send_receipt(self, customer: Customer, now: float) -> None:
        claim = customer.line.claim()
        if claim is None:
            return
        pair = claim.pair
        signed = ContributionReceipt(
            key_of(pair.gateway), key_of(pair.provider), pair.model_id, claim.epoch, claim.units
        )
        signature = self._account.sign_digest(vouchers.digest(self._chain.domain, signed))
        link = claim.link
        customer.receipted_at = now
        await asyncio.to_thread(
            self._journal.record_receipt,
            "held",
            pair,
            customer.peer,
            claim.epoch,
            claim.sequence,
            claim.units,
            link,
            signature,
        )
        customer.last = Receipt(
            claim.epoch, claim.sequence, claim.units, claim.previous, signature, self._identity.sign(link)
        )
        customer.tell(customer.last)
