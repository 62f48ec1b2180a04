"""Which stages a machine can serve, from what it has and what the swarm lacks."""
