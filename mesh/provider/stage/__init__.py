"""One stage in service: who may open sessions, what arrives and leaves, what runs and what it is paid."""
