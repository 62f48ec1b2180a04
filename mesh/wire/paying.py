"""The messages with which work is paid for on the control channel between a gateway and a hop (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from mesh.wire import fields as f
from mesh.wire.codec import Schema

_epoch = f.integer(1, 1 << 53)
_units = f.integer(1, (1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class Hello:
    """A gateway introduces itself before it opens sessions that it pays for; its binding is the payload."""

    kind: ClassVar[str] = "hello"


@dataclass(frozen=True, slots=True)
class Welcome:
    """The provider works for the gateway: under which id, for which model on the chain, and how much on credit.

    `credit` is in weighted tokens (`mesh.payment.credit.units`): beyond it sessions wait for vouchers.
    """

    kind: ClassVar[str] = "welcome"
    provider: str
    model_id: int
    credit: int


@dataclass(frozen=True, slots=True)
class Unwelcome:
    """The provider does not work for this gateway; `code` says why, `retry_after_ms` when it may."""

    kind: ClassVar[str] = "unwelcome"
    code: str
    reason: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """«In `epoch` I have done `units` for you in all»: signed for the chain, and chained to the receipt before."""

    kind: ClassVar[str] = "receipt"
    epoch: int
    sequence: int
    units: int
    previous: bytes
    signature: bytes
    endorsement: bytes
    """The peer's own signature over the chain's new link."""


@dataclass(frozen=True, slots=True)
class Voucher:
    """«For `epoch` I owe you `units` in all», signed for the chain (EIP-712 ContributionVoucher)."""

    kind: ClassVar[str] = "voucher"
    epoch: int
    units: int
    signature: bytes


PAYMENT_SCHEMA: Final[Schema] = {
    Hello: {},
    Welcome: {"provider": f.text(64), "model_id": f.integer(1, (1 << 53)), "credit": f.integer(1, 1 << 32)},
    Unwelcome: {"code": f.text(64), "reason": f.text(2000), "retry_after_ms": f.integer(0, 3_600_000)},
    Receipt: {
        "epoch": _epoch,
        "sequence": f.integer(1, 1 << 53),
        "units": _units,
        "previous": f.octets(32),
        "signature": f.octets(65),
        "endorsement": f.octets(64),
    },
    Voucher: {"epoch": _epoch, "units": _units, "signature": f.octets(65)},
}
