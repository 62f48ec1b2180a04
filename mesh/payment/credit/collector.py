"""The provider's collector of vouchers: who may open sessions, what they owe, receipts out and vouchers in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from chain import vouchers
from chain.primitives import checksummed, key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher, SignatureError
from chain.wallet import Account
from mesh.errors import BadRecord, ProtocolViolation, StorageUnavailable
from mesh.identity import Identity
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.comparison import compare_books
from mesh.payment.credit.customers import Bill, Customer, load_line
from mesh.payment.credit.dunning import Act
from mesh.payment.credit.line import CreditLine, Pair
from mesh.payment.credit.store import KEPT_EPOCHS, PaymentJournal
from mesh.payment.credit.terms import ChainView, CreditTerms, NotAccepted, accept_binding
from mesh.payment.credit.units import SessionMeter
from mesh.wire.messages import Message
from mesh.wire.paying import Compare, Receipt, Unwelcome, Voucher, Welcome

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.05
WATCH_SECONDS = 2.0
"""How often the chain is asked about every gateway, its key, its stake and its line."""
HASTE_SECONDS = 0.2
"""The least between two looks at all."""
STORAGE_SECONDS = 0.5
"""Between two tries to write down what a full disk did not take."""
FRESH_SECONDS = 1.0
"""A line that is too short is not looked up in answers older than this."""
WATCHED_AT_ONCE = 16
MAX_CUSTOMERS = 1024
RETRY_MS = 5000
MAX_REASON = 2000
REPLAY_CREDITS = 4
REPLAY_SHARE = 8
"""Tokens that may be replayed for nothing: one for so many that were paid for, and so many credits."""


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
        self._customers: dict[Pair, Customer] = {}
        """Kept while this process lives: a gateway that comes back, under whatever name, owes what it owed."""
        self._peers: dict[str, Customer] = {}
        self._prices: dict[int, int] = {}
        """Of a unit, in the epochs around now."""
        self._nudge = asyncio.Event()
        self._turned = asyncio.Event()
        """The epoch is another one, or a line is too short: look at the chain now."""
        self.release: Callable[[Customer], None] = lambda customer: None
        """Called when a customer has room again."""
        self.drop: Callable[[Customer], None] = lambda customer: None
        """Called when a customer has not paid in time, or may not be served any more."""

    # --- introductions ---

    async def greet(self, peer: str, data: bytes, tell: Callable[[Message], None]) -> None:
        """Answer a `Hello`: check the binding against the chain and tell `Welcome` or `Unwelcome`."""
        try:
            binding = accept_binding(data, peer=peer, role="gateway", domain=self._chain.domain)
            await self._chain.check_gateway(binding)
            customer = await self._customer(peer, binding, tell)
            await self._look(customer)
            if customer.barred is not None:
                raise NotAccepted(customer.barred)
        except (BadRecord, NotAccepted, StorageUnavailable) as error:
            logger.warning("gateway %s is not accepted: %s", peer, error)
            tell(Unwelcome("not_accepted", str(error)[:MAX_REASON], RETRY_MS))
            return
        customer.line.turn(self._chain.epoch, self._prices)
        tell(Welcome(self.provider, self.model_id, self.terms.tokens))
        if customer.last is not None and customer.last.epoch == customer.line.epoch:
            tell(customer.last)

    async def _customer(self, peer: str, binding: Binding, tell: Callable[[Message], None]) -> Customer:
        """The gateway's books: those that are open, or what the journal has. Raises `NotAccepted`."""
        pair = Pair(binding.id, self.provider, self.model_id)
        known = self._customers.get(pair)
        if known is None:
            line, last = await asyncio.to_thread(self._load, pair)
            known = self._customers.get(pair)  # another channel may have been as quick
        if known is None:
            self._make_place()
            known = self._customers[pair] = Customer(peer, binding, line, tell, last=last)
        elif known.connected and known.peer != peer:
            raise NotAccepted(f"gateway {pair.gateway!r} is here already, as peer {known.peer}")
        self._part(peer)
        if self._peers.get(known.peer) is known:
            del self._peers[known.peer]
        known.peer, known.binding, known.tell, known.connected = peer, binding, tell, True
        self._peers[peer] = known
        return known

    def _part(self, peer: str) -> None:
        """What this peer was so far is not here any more."""
        if (before := self._peers.get(peer)) is not None:
            before.tell, before.connected = lambda message: None, False

    def _make_place(self) -> None:
        if len(self._customers) >= MAX_CUSTOMERS:
            idle = [each for each in self._customers.values() if not (each.connected or each.line.running)]
            if not idle:
                raise NotAccepted(f"we work for {MAX_CUSTOMERS} gateways already")
            gone = min(idle, key=lambda each: each.line.unpaid)
            del self._customers[gone.line.pair]
            if self._peers.get(gone.peer) is gone:
                del self._peers[gone.peer]

    def _load(self, pair: Pair) -> tuple[CreditLine, Receipt | None]:
        return load_line(self._journal, pair, self.terms.tokens * self._blocks, self._identity)

    def customer(self, peer: str) -> Customer | None:
        """The gateway as which a peer has introduced itself."""
        return self._peers.get(peer)

    def leave(self, peer: str, tell: Callable[[Message], None]) -> None:
        """Its control channel has ended. What it owes is kept as long as this process lives."""
        known = self._peers.get(peer)
        if known is not None and known.tell == tell:
            self._part(peer)

    # --- sessions ---

    def open(self, customer: Customer, prompt: int, fed: int, blocks: int) -> Bill:
        """The bill of a new session. Raises `NotAccepted` when the customer has used up its credit."""
        if self._journal.failing():
            raise NotAccepted("what is done cannot be written down here now: the disk is full or broken")
        if customer.barred is not None or customer.dunning.dropped:
            raise NotAccepted(customer.owes)
        meter = SessionMeter(prompt, fed)
        allowed = customer.line.paid // (REPLAY_SHARE * max(1, self._blocks)) + REPLAY_CREDITS * self.terms.tokens
        if customer.replayed + meter.replayed > allowed:
            raise NotAccepted(f"more is resumed here than a part in {REPLAY_SHARE} of what was paid for")
        customer.replayed += meter.replayed
        return Bill(customer, meter, blocks)

    def finish(self, bill: Bill, begun: int, done: int) -> None:
        """Work that was begun has ended; `done` of its units count."""
        line = bill.customer.line
        line.finish(begun, done)
        if 4 * line.open >= line.credit:
            self._nudge.set()

    def wait(self, customer: Customer) -> None:
        """Work waits for money: ask for it at once."""
        customer.dunning.stall(time.monotonic())
        customer.receipted_at = 0.0
        self._nudge.set()
        if customer.line.uncovered:
            self._turned.set()

    # --- vouchers ---

    async def voucher(self, peer: str, message: Voucher) -> None:
        """Write a voucher down, and count what of it is covered. Raises `ProtocolViolation` for one that is not the
        gateway's."""
        customer = self._peers.get(peer)
        if customer is None:
            raise ProtocolViolation("a voucher came before an introduction", peer=peer)
        async with customer.order:
            await self._voucher(customer, message)

    async def _voucher(self, customer: Customer, message: Voucher) -> None:
        peer, pair, epoch = customer.peer, customer.line.pair, message.epoch
        if epoch < self._chain.epoch - 1:
            logger.info("a voucher for epoch %d of gateway %s is too old to count", epoch, pair.gateway)
            return
        if not customer.recalled and not customer.line.check(epoch, message.units):
            return
        signed = ContributionVoucher(key_of(pair.gateway), key_of(pair.provider), pair.model_id, epoch, message.units)
        try:
            signer = vouchers.recover(vouchers.digest(self._chain.domain, signed), message.signature)
            wanted = await self._chain.gateway_signer(pair.gateway, epoch)
            tariff = await self._chain.tariff(self.model_id, epoch)
        except SignatureError as error:
            raise ProtocolViolation(f"a voucher with a bad signature: {error}", peer=peer) from error
        except NotAccepted as error:
            logger.warning("a voucher of gateway %s cannot be checked: %s", pair.gateway, error)
            return
        if checksummed(signer) != wanted:
            raise ProtocolViolation("a voucher that the gateway's key did not sign", peer=peer)
        if customer.recalled:
            customer.line.admit(epoch, message.units)
        try:
            await asyncio.to_thread(
                self._journal.record_voucher, "held", pair, peer, epoch, message.units, message.signature
            )
        except StorageUnavailable:
            customer.missed = True  # it does not count before it is written down
            return
        if epoch not in customer.line.epochs:
            return  # two epochs have turned meanwhile; it is written down
        customer.line.accept(epoch, message.units)
        customer.hold(epoch, message.units)
        customer.tariffs[epoch] = tariff
        self._count(customer)

    async def compare(self, peer: str, message: Compare) -> None:
        """The gateway's books and ours differ: go on from our newest receipt, which it shows, and show its vouchers.

        Raises `ProtocolViolation`, `StorageUnavailable`.
        """
        customer = self._peers.get(peer)
        if customer is None:
            raise ProtocolViolation("books are compared before an introduction", peer=peer)
        mine = (self._chain.domain, self._account.address)
        async with customer.order:
            for answer in await compare_books(self._journal, customer, message, *mine, self._chain.epoch):
                customer.tell(answer)

    def _count(self, customer: Customer) -> None:
        """Count what the line covers; sessions go on if that is more than before."""
        if customer.count(self._chain.epoch):
            customer.dunning.pay()
            self.release(customer)

    # --- what the chain says ---

    async def _look(self, customer: Customer) -> None:
        """Ask the chain about a gateway and its line, and count what that covers; bar it if it may not be served."""
        pair, epoch, began = customer.line.pair, self._chain.epoch, time.monotonic()
        slots = await asyncio.to_thread(self._journal.slots, "held", pair=pair)
        slots = [slot for slot in slots if customer.concerns(slot, epoch)]
        if any(customer.news(slot) for slot in slots):
            # What has become safe may have been paid from the line: ask for that after we know of it.
            since = began
        else:
            since = began - FRESH_SECONDS if customer.line.uncovered else 0.0
        try:
            await self._chain.check_gateway(customer.binding)
        except NotAccepted as error:
            customer.barred = str(error)
            return
        customer.barred = None
        try:
            guarantee = await self._chain.guarantee(pair.gateway, pair.provider, since=since)
            tariffs = {slot.epoch: await self._chain.tariff(self.model_id, slot.epoch) for slot in slots}
        except NotAccepted as error:
            logger.warning("what gateway %s guarantees cannot be looked up: %s", pair.gateway, error)
            return
        customer.guarantee = guarantee
        customer.settled(slots)
        customer.tariffs |= tariffs
        self._count(customer)

    async def _look_again(self, customer: Customer) -> None:
        before = customer.barred
        await self._look(customer)
        reason = customer.barred
        if reason is not None and before is None:
            logger.warning("gateway %s is not served any more: %s", customer.line.pair.gateway, reason)
            customer.tell(Unwelcome("not_accepted", reason[:MAX_REASON], RETRY_MS))
        elif reason is None and before is not None:
            logger.info("gateway %s is served again", customer.line.pair.gateway)
            customer.dunning.pay()
            self.release(customer)

    async def _look_at_prices(self, epoch: int) -> None:
        with suppress(NotAccepted):  # it is asked again in a moment
            for each in (epoch, epoch + 1):
                if each not in self._prices:
                    self._prices[each] = (await self._chain.tariff(self.model_id, each)).price
        self._prices = {each: price for each, price in self._prices.items() if each >= epoch - 2}

    async def _watch(self) -> None:
        """Look at every gateway all the time, and at once when the epoch turns."""
        pruned = 0
        while True:
            epoch = self._chain.epoch
            await self._look_at_prices(epoch)
            watched = [each for each in self._customers.values() if each.connected or each.line.running]
            try:
                if epoch != pruned:
                    await asyncio.to_thread(self._journal.prune, epoch - KEPT_EPOCHS)
                    pruned = epoch
                for at in range(0, len(watched), WATCHED_AT_ONCE):
                    async with asyncio.TaskGroup() as looks:
                        for each in watched[at : at + WATCHED_AT_ONCE]:
                            looks.create_task(self._look_again(each))
                if self._journal.failing():
                    await asyncio.to_thread(self._journal.probe)
            except* StorageUnavailable:
                pass  # the journal has said so; it is tried again
            await asyncio.sleep(HASTE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._turned.wait()
            self._turned.clear()

    # --- receipts ---

    async def run(self) -> None:
        """Send receipts, look at the chain, and drop who does not pay, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._collect())

    async def _collect(self) -> None:
        known = self._chain.epoch
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._nudge.wait()
            self._nudge.clear()
            now, epoch = time.monotonic(), self._chain.epoch
            if epoch != known:
                known = epoch
                self._turned.set()
            for customer in tuple(self._customers.values()):
                customer.line.turn(epoch, self._prices)
                if self._receipt_due(customer, now):
                    await self._send_receipt(customer, now)
                self._dun(customer, now)

    def _dun(self, customer: Customer, now: float) -> None:
        line, pause = customer.line, self.terms.pause_seconds
        if customer.large is not None:
            customer.dunning.wait(now)
        for act in customer.dunning.step(now, customer.debt, pause=pause, pardon_after=line.pardon_after(pause)):
            match act:
                case Act.NOTICE:
                    customer.tell(Unwelcome("line", customer.owes[:MAX_REASON], RETRY_MS))
                case Act.DROP:
                    self.drop(customer)
                case Act.PARDON:
                    line.pardon()

    async def flush(self, seconds: float) -> None:
        """Send what receipts are due and wait until all is vouched for, at most `seconds`."""
        deadline = time.monotonic() + seconds
        for customer in tuple(self._customers.values()):
            customer.receipted_at = 0.0
        self._nudge.set()
        while any(c.line.claimed for c in self._customers.values()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)

    def _receipt_due(self, customer: Customer, now: float) -> bool:
        line = customer.line
        if customer.unwritten is not None or customer.missed:
            return now - customer.receipted_at >= STORAGE_SECONDS
        if not line.open:
            return False
        return 4 * line.open >= line.credit or now - customer.receipted_at >= self.terms.receipt_seconds

    async def _send_receipt(self, customer: Customer, now: float) -> None:
        customer.receipted_at = now
        claim = customer.unwritten
        if claim is None or claim.epoch != customer.line.epoch:  # of another epoch: claimed anew
            claim = customer.unwritten = customer.line.claim()
        if claim is None:
            if customer.last is not None and customer.missed:
                customer.missed = False
                customer.tell(customer.last)
            return
        pair = claim.pair
        signed = ContributionReceipt(
            key_of(pair.gateway), key_of(pair.provider), pair.model_id, claim.epoch, claim.units
        )
        signature = self._account.sign_digest(vouchers.digest(self._chain.domain, signed))
        try:
            await asyncio.to_thread(self._journal.record_claim, "held", claim, customer.peer, signature)
        except StorageUnavailable:
            return  # no receipt is given that is not written down; it is tried again
        customer.unwritten, customer.missed = None, False
        customer.last = Receipt(
            claim.epoch, claim.sequence, claim.units, claim.previous, signature, self._identity.sign(claim.link)
        )
        customer.tell(customer.last)
