"""The money: contracts, ledger, vouchers and the staking client (not built yet: see docs/decisions.md)."""
