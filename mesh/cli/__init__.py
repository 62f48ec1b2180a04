"""The `mesh` command. The only place that reads the environment."""
