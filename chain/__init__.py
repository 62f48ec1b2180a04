"""The money: contracts, ledger, vouchers and the staking client."""
