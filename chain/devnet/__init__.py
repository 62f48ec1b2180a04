"""A chain to run on without any node software: an embedded EVM, or anvil, behind the same JSON-RPC endpoint."""
