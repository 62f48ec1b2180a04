"""Benchmarks: each prints JSON and a table, states its method, and runs a peer beside the mesh in the same run."""
