"""A pure executable specification of the contracts: `docs/chain-rules.md` on integers, with time as an argument."""

from chain.ledger.base import Tx
from chain.ledger.world import Addresses, Genesis, Ledger

__all__ = ["Addresses", "Genesis", "Ledger", "Tx"]
