"""Deterministic simulation: the real protocol code in virtual time, over a network that fails as a seed says."""
