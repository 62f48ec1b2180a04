"""The messages with which work is paid for on the control channel between a gateway and a hop (pure)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mesh.wire.codec import Code, Wait, WireMessage

Epoch = Annotated[int, Meta(ge=1, le=1 << 53)]
Units = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
AccountSignature = Annotated[bytes, Meta(min_length=65, max_length=65)]


class Hello(WireMessage, frozen=True, tag="hello"):
    """A gateway introduces itself before it opens sessions that it pays for; its binding is the payload."""


class Welcome(WireMessage, frozen=True, tag="welcome"):
    """The provider works for the gateway: under which id, for which model on the chain, and how much on credit.

    `credit` is in weighted tokens (`mesh.payment.credit.units`): beyond it sessions wait for vouchers.
    """

    provider: Annotated[str, Meta(max_length=64)]
    model_id: Annotated[int, Meta(ge=1, le=1 << 53)]
    credit: Annotated[int, Meta(ge=1, le=1 << 32)]


class Unwelcome(WireMessage, frozen=True, tag="unwelcome"):
    """The provider does not work for this gateway; `code` says why, `retry_after_ms` when it may."""

    code: Code
    reason: Annotated[str, Meta(max_length=2000)]
    retry_after_ms: Wait


class Receipt(WireMessage, frozen=True, tag="receipt"):
    """«In `epoch` I have done `units` for you in all»: signed for the chain, and chained to the receipt before."""

    epoch: Epoch
    sequence: Annotated[int, Meta(ge=1, le=1 << 53)]
    units: Units
    previous: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: AccountSignature
    endorsement: Annotated[bytes, Meta(min_length=64, max_length=64)]
    """The peer's own signature over the chain's new link."""


class Voucher(WireMessage, frozen=True, tag="voucher"):
    """«For `epoch` I owe you `units` in all», signed for the chain (EIP-712 ContributionVoucher).

    A provider shows it back to a gateway that has sent a `Compare`.
    """

    epoch: Epoch
    units: Units
    signature: AccountSignature


class Compare(WireMessage, frozen=True, tag="compare"):
    """«Our books differ: this is your newest receipt that I hold (`sequence` 0: none). Show me my newest vouchers.»

    A provider shows them, and then answers with the same of its own books: those were all. `link` is the receipt's in
    the chain of receipts, `signature` the provider's own for the chain.
    """

    epoch: Annotated[int, Meta(ge=0, le=1 << 53)]
    sequence: Annotated[int, Meta(ge=0, le=1 << 53)]
    units: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    link: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: AccountSignature
