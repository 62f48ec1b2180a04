"""A node on the chain: its registration and stake, and the facts that it reads there while it serves."""
