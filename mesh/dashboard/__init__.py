"""The dashboard: what a gateway knows of its swarm as one snapshot, a stream of its changes, and a page to see it."""
