"""The contracts' calls, grouped as the contracts are, under the seeds' names in Python's spelling."""
