"""Verified work: what a hop commits to, what an audit finds, and what follows from that."""
