"""The staking client: every call of the contracts, from Python, on any chain that speaks Ethereum's JSON-RPC."""
