"""What each side of a credit line shows the other, whose signature is on it, and how they agree again.

That is needed when one's books came back from a backup, or are lost. Both hold what the other has signed: the gateway
the provider's receipts, the provider the gateway's vouchers. Each shows the other the newest, and the newest that both
have signed wins; see docs/settlement.md, «Books that are older».
"""

from __future__ import annotations

import asyncio
import logging

from chain import vouchers
from chain.primitives import checksummed, key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher, Domain, SignatureError
from mesh.errors import ProtocolViolation
from mesh.identity import verify
from mesh.payment.credit.customers import Customer
from mesh.payment.credit.line import GENESIS, Pair, ReceiptClaim
from mesh.payment.credit.store import PaymentJournal, Side
from mesh.wire.paying import Compare, Receipt, Voucher

logger = logging.getLogger(__name__)

NO_SIGNATURE = bytes(65)


def is_own_receipt(message: Compare, pair: Pair, domain: Domain, address: str) -> bool:
    """Whether the receipt that a gateway shows was signed with our key."""
    if not message.sequence or not message.units:
        return False
    receipt = ContributionReceipt(
        key_of(pair.gateway), key_of(pair.provider), pair.model_id, message.epoch, message.units
    )
    return _is_signed(vouchers.digest(domain, receipt), message.signature, address)


def is_own_voucher(message: Voucher, pair: Pair, domain: Domain, address: str) -> bool:
    """Whether the voucher that a provider shows was signed with our key."""
    voucher = ContributionVoucher(
        key_of(pair.gateway), key_of(pair.provider), pair.model_id, message.epoch, message.units
    )
    return _is_signed(vouchers.digest(domain, voucher), message.signature, address)


def verify_receipt(peer: str, claim: ReceiptClaim, message: Receipt, signer: str, domain: Domain) -> None:
    """Raises `ProtocolViolation` unless the provider's peer key and `signer` have both signed this receipt."""
    if not verify(peer, claim.link, message.endorsement):
        raise ProtocolViolation("a receipt that its peer did not sign", peer=peer)
    pair = claim.pair
    signed = ContributionReceipt(key_of(pair.gateway), key_of(pair.provider), pair.model_id, claim.epoch, claim.units)
    try:
        found = vouchers.recover(vouchers.digest(domain, signed), message.signature)
    except SignatureError as error:
        raise ProtocolViolation(f"a receipt with a bad signature: {error}", peer=peer) from error
    if checksummed(found) != signer:
        raise ProtocolViolation("a receipt that the provider's key did not sign", peer=peer)


def newest_receipt(journal: PaymentJournal, side: Side, pair: Pair) -> Compare:
    """The newest receipt that this side knows. Raises `StorageUnavailable`."""
    last = journal.last_receipt(side, pair)
    if last is None:
        return Compare(0, 0, 0, GENESIS, NO_SIGNATURE)
    return Compare(last.epoch, last.sequence, last.units, last.link, last.signature)


def newest_vouchers(journal: PaymentJournal, side: Side, pair: Pair, epoch: int) -> list[Voucher]:
    """The vouchers of a pair that still count in `epoch`. Raises `StorageUnavailable`."""
    slots = journal.slots(side, pair=pair)
    return [
        Voucher(slot.epoch, slot.voucher_units, slot.voucher_signature)
        for slot in slots
        if slot.voucher_signature is not None and slot.epoch >= epoch - 1
    ]


async def compare_books(
    journal: PaymentJournal, customer: Customer, message: Compare, domain: Domain, address: str, epoch: int
) -> list[Voucher | Compare]:
    """Go on from our newest receipt, if the gateway shows one that our books do not know; what we show it.

    `address` is ours. Raises `StorageUnavailable`.
    """
    line, pair = customer.line, customer.line.pair
    if is_own_receipt(message, pair, domain, address) and line.recall(
        message.epoch, message.sequence, message.units, message.link
    ):
        logger.warning("our books were older than receipt %d, which %s holds", message.sequence, pair.gateway)
        customer.unwritten, customer.last, customer.recalled = None, None, True
        await asyncio.to_thread(
            journal.record_receipt,
            "held",
            pair,
            customer.peer,
            message.epoch,
            message.sequence,
            message.units,
            message.link,
            message.signature,
        )
    held = await asyncio.to_thread(newest_vouchers, journal, "held", pair, epoch)
    return [*held, await asyncio.to_thread(newest_receipt, journal, "held", pair)]


def _is_signed(digest: bytes, signature: bytes, address: str) -> bool:
    try:
        return checksummed(vouchers.recover(digest, signature)) == address
    except SignatureError:
        return False
