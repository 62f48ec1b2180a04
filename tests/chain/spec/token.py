"""FUNC: balances, allowances, the capped supply, and what was sent to the gateways' registry unasked.

Permit is OpenZeppelin's own and not modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chain.contract_errors import (
    ERC20InsufficientAllowance,
    ERC20InsufficientBalance,
    ERC20InvalidReceiver,
    ERC20InvalidSpender,
    InsufficientBalance,
    NotMinter,
    SupplyCapExceeded,
    Unauthorized,
)
from chain.primitives import MAX_UINT256, ZERO_ADDRESS, Address, checksummed
from tests.chain.spec.base import Part, Tx, call
from tests.chain.spec.journal import Cell, Table

if TYPE_CHECKING:
    from tests.chain.spec.world import Ledger

SUPPLY_CAP: Final = 10**28


class FuncToken(Part):
    """ERC-20. Amounts in wei."""

    def __init__(self, ledger: Ledger, address: Address, owner: Address, holder: Address, supply: int) -> None:
        super().__init__(ledger, address, owner)
        self._balances: Table[Address, int] = Table(ledger.journal, 0)
        self._allowances: Table[tuple[Address, Address], int] = Table(ledger.journal, 0)
        self._supply = Cell(ledger.journal, 0)
        self._sent: Table[Address, int] = Table(ledger.journal, 0)
        self._create(holder, supply)

    @property
    def total_supply(self) -> int:
        return self._supply.value

    @property
    def minter(self) -> Address:
        """The reward pool, for good."""
        return self.ledger.reward_pool.address

    @property
    def inbox(self) -> Address:
        """The gateways' registry: what is sent there is remembered for its sender."""
        return self.ledger.gateways.address

    def sent_to(self, account: Address) -> int:
        """Wei that the account has sent to the inbox and not used or taken back."""
        return self._sent[account]

    def sent(self) -> int:
        """All that the inbox holds for its senders."""
        return sum(amount for _, amount in self._sent.items())

    def balance_of(self, account: Address) -> int:
        return self._balances[account]

    def balances(self) -> dict[Address, int]:
        """Every account that ever held something."""
        return dict(self._balances.items())

    def allowance(self, owner: Address, spender: Address) -> int:
        return self._allowances[owner, spender]

    @call
    def mint(self, tx: Tx, to: Address, amount: int) -> None:
        if tx.sender != self.minter:
            raise NotMinter(checksummed(tx.sender))
        self._create(to, amount)

    @call
    def burn(self, tx: Tx, amount: int) -> None:
        self.destroy(tx.sender, amount)

    @call
    def transfer(self, tx: Tx, to: Address, amount: int) -> None:
        self.move(tx.sender, to, amount)
        self._remember(tx.sender, tx.sender, to, amount)

    @call
    def approve(self, tx: Tx, spender: Address, amount: int) -> None:
        if spender == ZERO_ADDRESS:
            raise ERC20InvalidSpender(checksummed(spender))
        self._allowances[tx.sender, spender] = amount

    @call
    def transfer_from(self, tx: Tx, owner: Address, to: Address, amount: int) -> None:
        self.pull(tx.sender, owner, to, amount)

    @call
    def take_sent(self, tx: Tx, account: Address, amount: int) -> None:
        """The inbox uses, or gives back, what the account sent to it."""
        if tx.sender != self.inbox:
            raise Unauthorized(checksummed(tx.sender))
        sent = self._sent[account]
        if amount > sent:
            raise InsufficientBalance(amount, sent)
        self._sent[account] = sent - amount

    # --- what the other parts use ---

    def pull(self, spender: Address, owner: Address, to: Address, amount: int) -> None:
        """`spender` moves the owner's tokens; an allowance of 2^256 − 1 is never used up."""
        allowed = self._allowances[owner, spender]
        if allowed != MAX_UINT256:
            if allowed < amount:
                raise ERC20InsufficientAllowance(checksummed(spender), allowed, amount)
            self._allowances[owner, spender] = allowed - amount
        self.move(owner, to, amount)
        self._remember(spender, owner, to, amount)

    def move(self, source: Address, to: Address, amount: int) -> None:
        if to == ZERO_ADDRESS:
            raise ERC20InvalidReceiver(checksummed(to))
        self._take(source, amount)
        self._balances[to] += amount

    def destroy(self, source: Address, amount: int) -> None:
        self._take(source, amount)
        self._supply.value -= amount

    def _remember(self, caller: Address, source: Address, to: Address, amount: int) -> None:
        if to == self.inbox and caller != self.inbox:
            self._sent[source] += amount

    def _create(self, to: Address, amount: int) -> None:
        wanted = self.total_supply + amount
        if wanted > SUPPLY_CAP:
            raise SupplyCapExceeded(wanted, SUPPLY_CAP)
        self._supply.value = wanted
        self._balances[to] += amount

    def _take(self, source: Address, amount: int) -> None:
        held = self._balances[source]
        if held < amount:
            raise ERC20InsufficientBalance(checksummed(source), held, amount)
        self._balances[source] = held - amount
