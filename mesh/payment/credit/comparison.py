"""How the two sides of a credit line agree again when one's books came back from a backup, or are lost.

Both hold what the other has signed: the gateway the provider's receipts, the provider the gateway's vouchers. Each
shows the other the newest, and the newest that both have signed wins; see docs/settlement.md, «Books that are older».
"""

from __future__ import annotations

from chain import vouchers
from chain.primitives import checksummed, key_of
from chain.vouchers import ContributionReceipt, ContributionVoucher, Domain, SignatureError
from mesh.payment.credit.line import GENESIS, Pair
from mesh.payment.credit.store import PaymentJournal, Side
from mesh.wire.paying import Compare, Voucher

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


def newest_receipt(journal: PaymentJournal, pair: Pair) -> Compare:
    """What a gateway shows. Raises `StorageUnavailable`."""
    last = journal.last_receipt("issued", pair)
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


def _is_signed(digest: bytes, signature: bytes, address: str) -> bool:
    try:
        return checksummed(vouchers.recover(digest, signature)) == address
    except SignatureError:
        return False
