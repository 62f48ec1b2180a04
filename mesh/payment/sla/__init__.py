"""Service levels: probes, signed reports, and the enforcement of commitments that were missed."""
