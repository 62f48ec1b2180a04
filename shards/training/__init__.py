"""The recipe that trains the small model shipped with the project on Python's standard library."""
