"""The network: who is there, how bytes travel, how a request is driven."""
