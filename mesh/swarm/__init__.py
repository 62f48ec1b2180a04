"""Decisions over the swarm's view: coverage, which span to serve, which route to take (pure)."""
