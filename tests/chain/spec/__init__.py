"""A pure executable specification of the contracts: `docs/chain-rules.md` on integers, with time as an argument."""

from tests.chain.spec.base import Tx
from tests.chain.spec.world import Addresses, Genesis, Ledger

__all__ = ["Addresses", "Genesis", "Ledger", "Tx"]
