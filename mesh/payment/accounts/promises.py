"""A payer's own books at one gateway, and what it signs next (pure). Nothing that the gateway says is taken on trust.

The payer knows what it has promised: the highest cumulative voucher that it ever signed. What the gateway has handed
out for that only the gateway knows, as other programs use the API key; so the payer follows what it says, by at most
`ahead` wei beyond what it has followed before, within what it has promised, and in a run by `budget` wei in all. A
gateway that lies about what it handed out gets the budget, and nothing that it says makes it more.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.units import format_func


class AccountContradicted(Exception):
    """A gateway's account of our payments cannot be true; `field` says which of its figures."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Told:
    """An account as the gateway tells it; wei. All but `deposit` and `increment` are cumulative."""

    signed: int
    """The highest voucher that it says it holds."""
    spent: int
    """What it says it has handed out."""
    pending: int
    """What requests need before their first token."""
    deposit: int
    """The most that vouchers are covered for: what it says, or what the payer saw on the chain itself."""
    increment: int
    """How far ahead of what is spent it wants to be paid."""


@dataclass(slots=True)
class PayerBooks:
    """`ahead` and `budget` in wei; the budget is for what is signed beyond `began`; None: the deposit bounds that."""

    ahead: int
    budget: int | None
    promised: int = 0
    """The highest amount that we ever signed for this gateway."""
    followed: int = 0
    """What it has handed out, as far as we believe it."""
    began: int = 0
    """What was promised when this run began."""

    @property
    def limit(self) -> int | None:
        """The most that may be signed in this run, cumulative; None without a budget."""
        return None if self.budget is None else self.began + self.budget

    def recover(self, amount: int) -> None:
        """We did sign for `amount`: the gateway has shown our signature, the chain has paid it, or the user says so."""
        self.promised = max(self.promised, amount)

    def begin(self) -> None:
        """A run begins: the budget is for what comes now."""
        self.began = self.promised

    def follow(self, told: Told) -> None:
        """Take in what the gateway says. Raises `AccountContradicted`, and believes nothing of it."""
        if told.signed > self.promised:
            raise AccountContradicted(
                "signed",
                f"the gateway says that it holds a voucher over {format_func(told.signed)} FUNC, but shows no "
                f"signature of yours, and the books here know of {format_func(self.promised)} FUNC. If you paid it "
                "from another machine, give what you signed there as --already-signed, or --rpc if the chain has "
                "paid it; else do not pay this gateway.",
            )
        if told.spent > self.promised:
            raise AccountContradicted(
                "spent",
                f"the gateway says that it has handed out {format_func(told.spent)} FUNC's worth, but vouchers over "
                f"only {format_func(self.promised)} FUNC were ever signed: its account cannot be right. Nothing more "
                "is signed; use another gateway, and withdraw what is left here.",
            )
        self.followed = max(self.followed, told.spent)

    def next_voucher(self, told: Told, *, ahead: int | None = None) -> int | None:
        """The cumulative amount to sign now; None while the gateway holds enough, or no more may be signed.

        `ahead`: how far ahead to pay now, where that is more than usual.
        """
        # Started again, a gateway may say that it has handed out less; what requests need comes on top of that.
        spent = max(self.followed, told.spent + told.pending)
        wanted = min(spent + told.increment, self.followed + max(self.ahead, ahead or 0), told.deposit)
        if self.limit is not None:
            # What is promised already may be signed again: it adds nothing.
            wanted = min(wanted, max(self.limit, self.promised))
        return wanted if wanted > told.signed else None

    def sign(self, amount: int) -> None:
        """A voucher over `amount` is about to be sent, and is written down."""
        self.promised = max(self.promised, amount)
