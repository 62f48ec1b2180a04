"""The gateway's issuer of vouchers: introduces us to providers, counts what they have done, and signs for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chain import vouchers
from chain.primitives import checksummed, key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher, SignatureError
from chain.wallet import Account
from mesh.discovery.records import ProviderRecord
from mesh.errors import BadRecord, PeerError, PeerFailed, ProtocolViolation
from mesh.identity import verify
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.line import EpochUnits, Pair, ReceiptClaim, VoucherLine
from mesh.payment.credit.store import PaymentJournal, Sealed
from mesh.payment.credit.terms import ChainView, NotAccepted, accept_binding
from mesh.wire.messages import Message
from mesh.wire.paying import Hello, Receipt, Unwelcome, Voucher, Welcome

logger = logging.getLogger(__name__)

MAX_KNOWN = 4096
MAX_CREDIT = 1 << 20
"""Weighted tokens that a provider may give on credit: more would let it claim that much after a restart of ours."""


@dataclass(slots=True)
class Creditor:
    """A provider that has welcomed us on one control channel."""

    peer: str
    signer: str
    line: VoucherLine
    credit: int
    """Units that may be unpaid before it pauses."""
    say: Callable[[Message], Awaitable[None]]
    lock: asyncio.Lock
    """Of the line, which may have a creditor on a channel that has just ended beside this one."""
    signing: bool = False


class VoucherIssuer:
    """One gateway's books. Nothing is signed for tokens that have not reached us. `binding` makes our own, fresh."""

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
        self._lines: dict[Pair, VoucherLine] = {}
        self._locks: dict[Pair, asyncio.Lock] = {}
        self.known: dict[str, str] = {}
        """Peers of the active providers that announced themselves, by provider id."""
        self.on_voucher: Callable[[], None] = lambda: None
        self.on_receipt: Callable[[], None] = lambda: None

    # --- who may be routed to ---

    async def vet(self, records: Sequence[ProviderRecord]) -> list[ProviderRecord]:
        """The records whose providers the chain calls active for the model that they announce."""
        checked = await asyncio.gather(*(self._is_active(record) for record in records))
        return [record for record, active in zip(records, checked, strict=True) if active]

    async def _is_active(self, record: ProviderRecord) -> bool:
        try:
            binding = self._read(record.account, record.peer)
            facts = await self._chain.check_provider(binding)
            if facts.manifest.hex() != record.digest:
                raise NotAccepted("it is staked for another model than it announces")
        except (BadRecord, NotAccepted) as error:
            logger.info("provider %s is passed over: %s", record.peer, error)
            return False
        if binding.id in self.known or len(self.known) < MAX_KNOWN:
            self.known[binding.id] = record.peer
        return True

    def _read(self, data: bytes, peer: str) -> Binding:
        return accept_binding(data, peer=peer, role="provider", domain=self._chain.domain)

    # --- introductions ---

    def hello(self) -> tuple[Hello, bytes]:
        """What we say on a new control channel."""
        return Hello(), self._binding()

    async def welcomed(
        self,
        peer: str,
        answer: Welcome | Unwelcome,
        account: bytes,
        blocks: int,
        say: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Open (or go on with) the line of a provider that answered; `account` is the binding in its record.

        Raises `PeerFailed` when it does not want us, `ProtocolViolation` when it is not who its record says.
        """
        if isinstance(answer, Unwelcome):
            raise PeerFailed(f"{peer} does not work for us ({answer.code}): {answer.reason}", peer=peer)
        try:
            binding = self._read(account, peer)
            facts = await self._chain.check_provider(binding)
        except (BadRecord, NotAccepted) as error:
            raise PeerFailed(f"{peer} is no active provider: {error}", peer=peer) from error
        if (answer.provider, answer.model_id) != (binding.id, facts.model_id) or answer.credit > MAX_CREDIT:
            raise ProtocolViolation(f"{peer} welcomes us as somebody else than it announced", peer=peer)
        pair = Pair(self.gateway, binding.id, facts.model_id)
        line = self._lines.get(pair)
        if line is None:
            loaded = await asyncio.to_thread(self._load, pair, answer.credit * blocks)
            line = self._lines.setdefault(pair, loaded)
        lock = self._locks.setdefault(pair, asyncio.Lock())
        self._creditors[peer] = Creditor(peer, facts.signer, line, answer.credit * blocks, say, lock)

    def _load(self, pair: Pair, credit: int) -> VoucherLine:
        line = VoucherLine(pair)
        line.sequence, line.link = self._journal.chain("issued", pair)
        for slot in self._journal.slots("issued", pair=pair):
            line.epochs[slot.epoch] = EpochUnits(slot.receipt_units, slot.voucher_units)
            line.grace = credit
        return line

    # --- what was done for us ---

    def accrue(self, peer: str, units: int) -> None:
        """Tokens have reached us that bear out `units` of this hop's work."""
        creditor = self._creditors.get(peer)
        if creditor is None or not units:
            return
        creditor.line.verified += units
        self._consider(creditor)

    def receipt(self, peer: str, message: Receipt) -> None:
        """Take a receipt. Raises `ProtocolViolation` when it is not this provider's, or contradicts an earlier one."""
        creditor = self._creditors.get(peer)
        if creditor is None:
            raise ProtocolViolation("a receipt came before an introduction", peer=peer)
        line = creditor.line
        if message.sequence == line.sequence:
            self._again(creditor)  # sent again after a broken connection
            return
        claim = line.check_receipt(message.epoch, message.sequence, message.units)
        if message.previous != claim.previous:
            logger.warning("receipts of %s between %d and %d are missing", peer, line.sequence, message.sequence)
            claim = ReceiptClaim(claim.pair, claim.epoch, claim.sequence, claim.units, message.previous)
        if not verify(peer, claim.link, message.endorsement):
            raise ProtocolViolation("a receipt that its peer did not sign", peer=peer)
        pair = line.pair
        signed = ContributionReceipt(
            key_of(pair.gateway), key_of(pair.provider), pair.model_id, claim.epoch, claim.units
        )
        try:
            signer = vouchers.recover(vouchers.digest(self._chain.domain, signed), message.signature)
        except SignatureError as error:
            raise ProtocolViolation(f"a receipt with a bad signature: {error}", peer=peer) from error
        if checksummed(signer) != creditor.signer:
            raise ProtocolViolation("a receipt that the provider's key did not sign", peer=peer)
        line.follow(claim)
        self.on_receipt()
        self._tasks.create_task(self._keep(creditor, claim, message.signature))

    def _again(self, creditor: Creditor) -> None:
        """The provider may have missed our last voucher: say it once more, or sign a higher one."""
        line = creditor.line
        self._consider(creditor)
        if not creditor.signing and line.epochs:
            self._tasks.create_task(self._repeat(creditor, max(line.epochs)))

    async def _repeat(self, creditor: Creditor, epoch: int) -> None:
        slots = await asyncio.to_thread(self._journal.slots, "issued", epoch=epoch, pair=creditor.line.pair)
        for slot in slots:
            if slot.voucher_signature is not None:
                try:
                    await creditor.say(Voucher(epoch, slot.voucher_units, slot.voucher_signature))
                except PeerError as error:
                    logger.info("a voucher did not reach %s: %s", creditor.peer, error)

    async def _keep(self, creditor: Creditor, claim: ReceiptClaim, signature: bytes) -> None:
        async with creditor.lock:
            await asyncio.to_thread(
                self._journal.record_receipt,
                "issued",
                claim.pair,
                creditor.peer,
                claim.epoch,
                claim.sequence,
                claim.units,
                claim.link,
                signature,
            )
            # Only now may a voucher rest on it: a voucher without its receipt would be a leaf without support.
            creditor.line.receipt(claim)
        self._consider(creditor)

    # --- vouchers ---

    def _consider(self, creditor: Creditor) -> None:
        if not creditor.signing and self._next_epoch(creditor) is not None:
            creditor.signing = True
            self._tasks.create_task(self._sign(creditor))

    def _next_epoch(self, creditor: Creditor) -> int | None:
        """The epoch to sign for: the newest with something due that may still be signed."""
        line, current = creditor.line, self._chain.epoch
        for epoch in sorted(line.epochs, reverse=True):
            if abs(epoch - current) <= 1 and line.due(epoch) is not None:
                return epoch
        return None

    async def _sign(self, creditor: Creditor) -> None:
        line = creditor.line
        try:
            async with creditor.lock:
                epoch = self._next_epoch(creditor)
                units = line.due(epoch) if epoch is not None else None
                if epoch is None or units is None:
                    return
                pair = line.pair
                voucher = ContributionVoucher(key_of(pair.gateway), key_of(pair.provider), pair.model_id, epoch, units)
                signature = self._account.sign_digest(vouchers.digest(self._chain.domain, voucher))
                try:
                    await asyncio.to_thread(
                        self._journal.record_voucher, "issued", pair, creditor.peer, epoch, units, signature
                    )
                except Sealed:
                    # The provider claims it anew once it sees the new epoch.
                    line.epochs[epoch].receipted = line.epochs[epoch].vouched
                    return
                line.sign(epoch, units)
            self.on_voucher()
            await creditor.say(Voucher(epoch, units, signature))
        except PeerError as error:
            logger.info("a voucher did not reach %s, the next one will cover it: %s", creditor.peer, error)
        finally:
            creditor.signing = False
        self._consider(creditor)

    def leave(self, peer: str) -> None:
        """The control channel to this provider has ended."""
        self._creditors.pop(peer, None)
