"""Child processes with hard limits, for code that reads what strangers wrote."""
