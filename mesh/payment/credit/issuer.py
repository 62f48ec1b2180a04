"""The gateway's issuer of vouchers: introduces us to providers, counts what they have done, and signs for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from chain import vouchers
from chain.primitives import key_of
from chain.vouchers import ContributionVoucher
from chain.wallet import Account
from mesh.discovery.records import ProviderRecord
from mesh.errors import BadRecord, PeerError, PeerFailed, ProtocolViolation, StorageUnavailable
from mesh.payment.credit.comparison import is_own_voucher, newest_receipt, newest_vouchers, verify_receipt
from mesh.payment.credit.creditors import Books, Creditor
from mesh.payment.credit.line import EpochUnits, Pair, ReceiptClaim
from mesh.payment.credit.store import KEPT_EPOCHS, PaymentJournal, Sealed
from mesh.payment.credit.terms import ChainView, NotAccepted, accept_binding
from mesh.payment.credit.vetting import MAX_KNOWN, Vetting
from mesh.payment.credit.vouching import VoucherLine
from mesh.wire.messages import Message
from mesh.wire.paying import Compare, Hello, Receipt, Unwelcome, Voucher, Welcome

logger = logging.getLogger(__name__)

PACE_SECONDS = 0.02
"""Between two looks at a line that has something to do: so often at most receipts are verified and written down."""
AHEAD_SECONDS = 0.5
"""How often a line is looked at whose provider is in the next epoch already."""
NOTICE_SECONDS = 5.0
COMPARE_SECONDS = 5.0
"""A provider has this long to show what it holds."""
STORAGE_SECONDS = 1.0
"""Between two tries to write down what a full disk did not take."""


class VoucherIssuer:
    """One gateway's books. Nothing is signed for tokens that have not reached us, nor that the chain would not honour.

    `binding` makes our own, fresh.
    """

    def __init__(
        self,
        *,
        gateway: str,
        binding: Callable[[], bytes],
        account: Account,
        journal: PaymentJournal,
        chain: ChainView,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.gateway = gateway
        self._binding = binding
        self._account = account
        self._journal = journal
        self._chain = chain
        self._tasks = tasks
        self._creditors: dict[str, Creditor] = {}
        self._books: dict[Pair, Books] = {}
        self._pruned = 0
        self.vetting = Vetting(chain)
        self.on_voucher: Callable[[], None] = lambda: None
        self.on_receipt: Callable[[], None] = lambda: None
        self.holds: Callable[[str, str], bool] = lambda provider, digest: False
        """Whether nothing is to be signed for a provider (its id) of this model (its digest) for now."""
        self.on_short: Callable[[str], None] = lambda provider: None
        """Hears of providers (ids) that say that our line for them is too short."""

    async def vet(self, records: Sequence[ProviderRecord]) -> list[ProviderRecord]:
        """The records whose providers may be routed to."""
        return await self.vetting.vet(records)

    def credit_of(self, peer: str) -> int:
        """How many weighted tokens a provider that has welcomed us gives credit for. Raises `PeerFailed`."""
        creditor = self._creditors.get(peer)
        if creditor is None:
            raise PeerFailed(f"{peer} has not welcomed us", peer=peer)
        return creditor.credit

    def released(self, provider: str) -> None:
        """What was held back from a provider (its id) may be signed for now."""
        for pair, books in self._books.items():
            if pair.provider == provider:
                self._wake(books)

    @property
    def known(self) -> dict[str, str]:
        """Peers of the eligible providers that announced themselves, by provider id."""
        return self.vetting.known

    # --- introductions ---

    def hello(self) -> tuple[Hello, bytes]:
        """What we say on a new control channel."""
        return Hello(), self._binding()

    async def welcomed(
        self,
        peer: str,
        answer: Welcome | Unwelcome,
        account: bytes,
        say: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Open (or go on with) the line of a provider that answered; `account` is the binding in its record.

        Raises `PeerFailed` when it does not want us, `ProtocolViolation` when it is not who its record says.
        """
        if isinstance(answer, Unwelcome):
            raise PeerFailed(f"{peer} does not work for us ({answer.code}): {answer.reason}", peer=peer)
        try:
            binding = accept_binding(account, peer=peer, role="provider", domain=self._chain.domain)
            facts = await self._chain.check_provider(binding)
        except (BadRecord, NotAccepted) as error:
            raise PeerFailed(f"{peer} is no eligible provider: {error}", peer=peer) from error
        if (answer.provider, answer.model_id) != (binding.id, facts.model_id):
            raise ProtocolViolation(f"{peer} welcomes us as somebody else than it announced", peer=peer)
        pair = Pair(self.gateway, binding.id, facts.model_id)
        books = self._books.get(pair)
        if books is None:
            try:
                loaded = await asyncio.to_thread(self._load, pair)
            except StorageUnavailable as error:
                raise PeerFailed(f"{peer} cannot be paid now: {error}", peer=peer) from error
            self._make_place()
            books = self._books.setdefault(pair, Books(loaded, loaded.sequence))
        books.creditor = self._creditors[peer] = Creditor(peer, binding, books, say, answer.credit)
        self._wake(books)

    def _load(self, pair: Pair) -> VoucherLine:
        """What is on disk: what was signed, and what was counted and not signed for when something was last written."""
        line = VoucherLine(pair, self._journal.unsigned(pair))
        line.verified = sum(line.unsigned.values())
        last = self._journal.last_receipt("issued", pair)
        if last is not None:
            line.sequence, line.link = last.sequence, last.link
        for slot in self._journal.slots("issued", pair=pair):
            if slot.epoch >= self._chain.epoch - 1:
                receipted = max(slot.receipt_units, slot.voucher_units)
                line.epochs[slot.epoch] = EpochUnits(receipted, slot.voucher_units, base=slot.voucher_units)
        return line

    def _make_place(self) -> None:
        if len(self._books) >= MAX_KNOWN:
            idle = (pair for pair, books in self._books.items() if books.creditor is None and not books.busy)
            self._books.pop(next(idle, Pair("", "", 0)), None)

    def leave(self, peer: str) -> None:
        """The control channel to this provider has ended."""
        creditor = self._creditors.pop(peer, None)
        if creditor is not None and creditor.books.creditor is creditor:
            creditor.books.creditor = None

    # --- what was done for us ---

    def accrue(self, peer: str, units: int) -> None:
        """Tokens have reached us that bear out `units` of this hop's work."""
        creditor = self._creditors.get(peer)
        if creditor is not None and units:
            creditor.books.line.accrue(self._chain.epoch, units)
            self._wake(creditor.books)

    def receipt(self, peer: str, message: Receipt) -> None:
        """Take a receipt; it is verified soon. One that is older than what we hold is answered with that.

        Raises `ProtocolViolation` for an epoch that is over or far away, or when an earlier one proved to be forged.
        """
        creditor = self._creditors.get(peer)
        if creditor is None:
            raise ProtocolViolation("a receipt came before an introduction", peer=peer)
        if creditor.violation is not None:
            raise creditor.violation
        books, epoch = creditor.books, message.epoch
        if message.sequence == books.seen:
            books.again = True  # sent again after a broken connection
        elif message.sequence < books.seen:
            books.differs = True  # its books came back from a backup
        else:
            if not -1 <= epoch - self._chain.epoch <= 1:
                raise ProtocolViolation(f"a receipt for epoch {epoch}, and it is {self._chain.epoch}", peer=peer)
            waiting = books.inbox.get(epoch)
            if (waiting is not None and message.units < waiting.units) or not books.line.follows(message):
                books.differs = True
            else:
                # The first of a channel that skips some: perhaps they were lost on the way, perhaps by us.
                books.differs |= not creditor.heard and message.sequence > books.seen + 1
                books.inbox[epoch], books.seen = message, message.sequence
        creditor.heard = True
        self._wake(books)

    def shown(self, peer: str, message: Voucher) -> None:
        """A provider shows a voucher that it holds of us; it is looked at soon."""
        creditor = self._creditors.get(peer)
        if creditor is None or not -1 <= message.epoch - self._chain.epoch <= 1:
            return
        books, epoch = creditor.books, message.epoch
        counts, waiting = books.line.epochs.get(epoch), books.shown.get(epoch)
        known = max(0 if counts is None else counts.vouched, 0 if waiting is None else waiting.units)
        if message.units > known:
            books.shown[epoch] = message
            self._wake(books)

    def compared(self, peer: str, message: Compare) -> None:
        """A provider has shown all that it holds."""
        creditor = self._creditors.get(peer)
        if creditor is not None:
            creditor.books.compared_by = 0.0
            self._wake(creditor.books)

    def unwelcome(self, peer: str, message: Unwelcome) -> None:
        """A provider says why it works for us no longer, or only up to its credit."""
        creditor = self._creditors.get(peer)
        if creditor is None or time.monotonic() - creditor.books.told_at < NOTICE_SECONDS:
            return
        creditor.books.told_at = time.monotonic()
        logger.warning("provider %s: %s", creditor.binding.id, message.reason)
        if message.code == "line":
            creditor.books.short = True
            self._wake(creditor.books)

    # --- the task of a line ---

    def _wake(self, books: Books) -> None:
        books.news = True
        if not books.busy and books.creditor is not None and books.waits:
            books.busy = True
            self._tasks.create_task(self._work(books))

    async def _work(self, books: Books) -> None:
        """Do what there is to do about a line, at a steady pace, until there is nothing."""
        try:
            while (creditor := books.creditor) is not None and creditor.violation is None:
                books.news = False
                try:
                    pause = await self._round(books, creditor)
                except StorageUnavailable:
                    # Nothing is signed that is not written down. The receipts stay, and wait for room.
                    pause = STORAGE_SECONDS
                if pause is None:
                    if not books.news or not books.waits:
                        return
                    pause = PACE_SECONDS
                await asyncio.sleep(pause)
        finally:
            books.busy = False

    async def _round(self, books: Books, creditor: Creditor) -> float | None:
        """Seconds until the next look; None when only something new can make one worth while."""
        line, epoch = books.line, self._chain.epoch
        await self._prune(epoch)
        if books.short:
            await asyncio.to_thread(self._journal.note, self.gateway, line.pair.provider)
            books.short = False
            self.on_short(line.pair.provider)
        try:
            facts = await self._chain.check_provider(creditor.binding)
            prices = {
                each: (await self._chain.tariff(line.pair.model_id, each)).price
                for each in {epoch - 1, epoch, *line.unsigned}
                if each > 0
            }
        except NotAccepted as error:
            logger.warning("nothing is signed for provider %s: %s", line.pair.provider, error)
            return None
        line.turn(epoch, prices)
        for each in sorted(each for each in books.inbox if each <= epoch):
            message = books.inbox[each]
            if each >= epoch - 1 and not await self._take(books, creditor, message, facts.signer):
                return None
            if books.inbox.get(each) is message:  # else a newer one has come meanwhile
                del books.inbox[each]
        for each in sorted(books.shown):
            await self._recall(books, creditor, books.shown[each])
        if books.differs:
            books.differs, books.compared_by = False, time.monotonic() + COMPARE_SECONDS
            await self._compare(creditor)
            return PACE_SECONDS
        if books.shown or time.monotonic() < books.compared_by:
            return PACE_SECONDS  # what is signed now might be what was signed before
        if self.holds(line.pair.provider, facts.manifest.hex()):
            return None
        signed = [await self._sign(creditor, each, prices) for each in (epoch, epoch - 1)]
        if books.again:
            if not any(signed):
                await self._repeat(creditor)
            books.again = False
        if any(signed):
            return PACE_SECONDS
        return AHEAD_SECONDS if books.inbox else None

    async def _prune(self, epoch: int) -> None:
        if self._pruned != epoch:
            await asyncio.to_thread(self._journal.prune, epoch - KEPT_EPOCHS)
            self._pruned = epoch

    async def _take(self, books: Books, creditor: Creditor, message: Receipt, signer: str) -> bool:
        """Verify a receipt and write it down; False when it is not this provider's."""
        line, pair = books.line, books.line.pair
        if not line.follows(message):
            books.differs = True
            return True
        try:
            claim = line.check_receipt(message.epoch, message.sequence, message.units)
            # Receipts that came in quick succession are taken as one: what is between is missing.
            claim = ReceiptClaim(pair, claim.epoch, claim.sequence, claim.units, message.previous)
            verify_receipt(creditor.peer, claim, message, signer, self._chain.domain)
        except ProtocolViolation as error:
            logger.warning("provider %s: %s", pair.provider, error)
            creditor.violation = error
            books.inbox.clear()
            books.seen = line.sequence
            return False
        left = dict(line.unsigned)
        await asyncio.to_thread(
            self._journal.record_claim, "issued", claim, creditor.peer, message.signature, unsigned=left
        )
        # Only now may a voucher rest on it.
        line.receipt(claim)
        self.on_receipt()
        return True

    async def _sign(self, creditor: Creditor, epoch: int, prices: dict[int, int]) -> bool:
        """Sign for what is due in an epoch; whether anything was."""
        line, pair = creditor.books.line, creditor.books.line.pair
        units = line.due(epoch, prices)
        if units is None or not await self._is_ours(epoch):
            return False
        voucher = ContributionVoucher(key_of(pair.gateway), key_of(pair.provider), pair.model_id, epoch, units)
        signature = self._account.sign_digest(vouchers.digest(self._chain.domain, voucher))
        left = line.left(epoch, units, prices)
        try:
            await asyncio.to_thread(
                self._journal.record_voucher, "issued", pair, creditor.peer, epoch, units, signature, unsigned=left
            )
        except Sealed:
            # The provider claims it anew once it sees the new epoch.
            line.epochs[epoch].receipted = line.epochs[epoch].vouched
            return False
        line.sign(epoch, units, prices)
        self.on_voucher()
        await self._say(creditor, Voucher(epoch, units, signature))
        return True

    async def _is_ours(self, epoch: int) -> bool:
        """Whether it is our key that signs for the gateway in an epoch."""
        try:
            signer = await self._chain.gateway_signer(self.gateway, epoch)
        except NotAccepted as error:
            signer = f"unknown ({error})"
        if signer != self._account.address:
            logger.warning("nothing is signed for epoch %d: the gateway's signer there is %s", epoch, signer)
        return signer == self._account.address

    async def _repeat(self, creditor: Creditor) -> None:
        """Say the newest voucher once more."""
        line = creditor.books.line
        if line.epochs:
            slots = await asyncio.to_thread(self._journal.slots, "issued", epoch=max(line.epochs), pair=line.pair)
            for slot in slots:
                if slot.voucher_signature is not None:
                    await self._say(creditor, Voucher(slot.epoch, slot.voucher_units, slot.voucher_signature))

    async def _compare(self, creditor: Creditor) -> None:
        """Show the provider what we hold; it answers with what it holds."""
        pair, epoch = creditor.books.line.pair, self._chain.epoch
        logger.info("the books of provider %s and ours differ: they are compared", pair.provider)
        await self._say(creditor, await asyncio.to_thread(newest_receipt, self._journal, "issued", pair))
        for voucher in await asyncio.to_thread(newest_vouchers, self._journal, "issued", pair, epoch):
            await self._say(creditor, voucher)

    async def _recall(self, books: Books, creditor: Creditor, message: Voucher) -> None:
        """Take a voucher of ours back into books that have forgotten it; not into an epoch that is being settled."""
        line, epoch = books.line, message.epoch
        if is_own_voucher(message, line.pair, self._chain.domain, self._account.address):
            try:
                await asyncio.to_thread(
                    self._journal.record_voucher,
                    "issued",
                    line.pair,
                    creditor.peer,
                    epoch,
                    message.units,
                    message.signature,
                )
            except Sealed:
                logger.warning("a voucher of ours for epoch %d is shown too late: it is settled already", epoch)
            else:
                line.recall(epoch, message.units)
        if books.shown.get(epoch) is message:
            del books.shown[epoch]

    async def _say(self, creditor: Creditor, message: Voucher | Compare) -> None:
        try:
            await creditor.say(message)
        except PeerError as error:
            logger.info("a voucher did not reach %s, the next one will cover it: %s", creditor.peer, error)
