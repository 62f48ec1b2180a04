"""The model: cutting, loading and running blocks; no network, no chain."""
