"""`mesh up` and `mesh config`: a whole node from one file, `mesh.toml`."""
