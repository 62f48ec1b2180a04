"""What a developer has at a gateway: highest voucher less charges, and what a running request may take of it (pure).

All amounts are integers of wei. Vouchers are cumulative, so only the highest counts; charges are cumulative too, so an
account is two numbers that never fall, but for the part of a charge that was taken ahead and not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from mesh.payment.credit.units import W_GENERATED, weighted_tokens

Complaint = Literal["voucher_not_higher", "voucher_not_covered"]
STEPS_PER_INCREMENT: Final = 4
"""A running stream takes a quarter of an increment at a time, so that several can share what one voucher adds."""


class VoucherRefused(Exception):
    """A voucher that adds nothing, or promises more than the escrow holds; `code` says which."""

    def __init__(self, code: Complaint, message: str) -> None:
        super().__init__(message)
        self.code: Complaint = code


@dataclass(slots=True)
class Charge:
    """One running request. `written` wei are charged (and written down first), of which `used` were handed out."""

    id: str
    written: int = 0
    used: int = 0
    reserved: int = 0
    """Wei of credit that only this request may still be charged; in memory, so that a crash gives them back."""

    @property
    def held(self) -> int:
        """Charged ahead of what was handed out."""
        return self.written - self.used


@dataclass(slots=True)
class Account:
    """One payer. `backing` is the most that its vouchers can be worth: what is reserved for us and what we redeemed."""

    payer: bytes
    signed: int = 0
    charged: int = 0
    backing: int = 0
    running: dict[str, Charge] = field(default_factory=dict)

    @property
    def credit(self) -> int:
        """What may still be charged: promised, covered by the escrow, neither charged nor reserved yet."""
        return max(0, min(self.signed, self.backing) - self.charged - self.reserved)

    @property
    def reserved(self) -> int:
        """Reserved by all running requests together."""
        return sum(charge.reserved for charge in self.running.values())

    @property
    def held(self) -> int:
        """Charged ahead by all running requests together."""
        return sum(charge.held for charge in self.running.values())

    @property
    def spent(self) -> int:
        """Charged for what was handed out: what a payer's vouchers follow."""
        return self.charged - self.held

    def check_voucher(self, amount: int, backing: int) -> None:
        """Raises `VoucherRefused` unless `amount` is above every earlier voucher and at most `backing`."""
        if amount <= self.signed:
            raise VoucherRefused(
                "voucher_not_higher", f"a voucher over {amount} wei adds nothing to the one over {self.signed} wei"
            )
        if amount > backing:
            raise VoucherRefused(
                "voucher_not_covered", f"a voucher over {amount} wei, of which the escrow holds {backing}"
            )

    def accept(self, amount: int) -> None:
        """Count a voucher that passed `check_voucher` and is safely written down."""
        self.signed = max(self.signed, amount)

    def open(self, identifier: str) -> Charge:
        """A request begins. Raises ValueError if one of this id runs already."""
        if identifier in self.running:
            raise ValueError(f"{identifier} runs already")
        charge = Charge(identifier)
        self.running[identifier] = charge
        return charge

    def reserve(self, charge: Charge, amount: int) -> bool:
        """Keep `amount` wei of credit for one request; False, and nothing changes, where the credit is below that."""
        if self.credit < amount:
            return False
        charge.reserved += amount
        return True

    def draw(self, charge: Charge, amount: int) -> None:
        """Charge `amount` wei of what is reserved, to be written down as by `take`. Raises ValueError beyond that."""
        if not 0 <= amount <= charge.reserved:
            raise ValueError(f"{amount} wei drawn, {charge.reserved} reserved")
        charge.reserved -= amount
        charge.written += amount
        self.charged += amount

    def take(self, charge: Charge, least: int, most: int) -> int | None:
        """Charge `least` to `most` wei more, to be written down before anything is handed out for it.

        Beyond `least` it takes at most half of the credit, which leaves something for the account's other requests.
        None, and nothing changes, where the credit is below `least`.
        """
        credit = self.credit
        if credit < least:
            return None
        taken = min(max(least, credit // 2), most)
        charge.written += taken
        self.charged += taken
        return taken

    def use(self, charge: Charge, amount: int) -> None:
        """Something that costs `amount` wei is handed out. Raises ValueError when that was not charged before."""
        if not 0 <= charge.used + amount <= charge.written:
            raise ValueError(f"{amount} wei used, {charge.held} charged")
        charge.used += amount

    def settle(self, charge: Charge, final: int) -> None:
        """The request has ended and costs `final`, which gives back the rest. Raises ValueError above what was charged.

        May be called once; afterwards the charge is no longer running.
        """
        if not 0 <= final <= charge.written:
            raise ValueError(f"a request ends at {final} wei, {charge.written} were charged")
        self.charged -= charge.written - final
        charge.written = charge.used = final
        charge.reserved = 0
        del self.running[charge.id]


@dataclass(frozen=True, slots=True)
class Tariff:
    """The price of a weighted token in wei, and how many of them one increment has."""

    price: int
    increment_tokens: int

    @property
    def increment(self) -> int:
        """Most that is charged at a time."""
        return self.price * self.increment_tokens

    @property
    def step(self) -> int:
        """What a running stream charges ahead, at least one generated token."""
        return self.price * max(W_GENERATED, self.increment_tokens // STEPS_PER_INCREMENT)

    def cost(self, prompt: int, generated: int, cached: int = 0) -> int:
        """Wei for so many prompt and generated tokens; of the prompt's, `cached` were not run."""
        return self.price * weighted_tokens(prompt, generated, cached)
