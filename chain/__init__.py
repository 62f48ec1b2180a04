"""The money: contracts, vouchers and the staking client."""
