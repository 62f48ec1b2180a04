"""The world of the search with the compiled contracts beside the ledger: every call goes to both, which must agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chain.errors import ContractError
from tests.chain.bare_evm import BareEvm, Contracts
from tests.chain.machine_base import camel, for_abi
from tests.chain.spec import Addresses, Genesis, Ledger
from tests.profit.world import BUDGET, EPOCHS_PER_HALVING, OWNER, SETTINGS, World, account


@dataclass(slots=True)
class TwinWorld(World):
    """Fails the test where ledger and contracts differ: in what they refuse, and why, or in anybody's tokens."""

    contracts: Contracts = field(init=False)
    calls: int = 0

    def _found(self) -> Ledger:
        evm = BareEvm(SETTINGS["chain_id"])
        self.contracts = Contracts(evm, Genesis(**SETTINGS), BUDGET, EPOCHS_PER_HALVING)
        genesis = Genesis(**SETTINGS, addresses=Addresses(**self.contracts.at))
        return Ledger(genesis, pool_of=self.contracts.next_pool)

    def do(self, part: str, method: str, who: str | None, *arguments: Any) -> Any:
        sender = OWNER if who is None else account(who).address
        self.calls += 1
        theirs: ContractError | None = None
        try:
            converted = [for_abi(each) for each in arguments]
            self.contracts.transact(part, camel(method), sender, self.block, *converted)
        except ContractError as error:
            theirs = error
        try:
            result = World.do(self, part, method, who, *arguments)
        except ContractError as ours:
            same = type(ours) is type(theirs) and ours.arguments == theirs.arguments  # type: ignore[union-attr]
            assert same, f"{part}.{method}{arguments}: ledger {ours!r}, contract {theirs!r}"
            raise
        assert theirs is None, f"the ledger allows {part}.{method}{arguments}, the contract: {theirs!r}"
        return result

    def tokens_agree(self) -> bool:
        """Whether everybody has the same number of tokens on both."""
        return all(
            self.contracts.view("token", "balanceOf", self.block, account(name).address)
            == self.ledger.token.balance_of(account(name).address)
            for name in (*self.honest, *self.coalition)
        )
