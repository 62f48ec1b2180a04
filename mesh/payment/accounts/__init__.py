"""Developers' accounts at a gateway: keys, deposits, vouchers, charges and limits."""
