"""A model's files: found, fetched, checked and read, of a span only what it needs."""
