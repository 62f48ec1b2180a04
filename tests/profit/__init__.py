"""Searches for a coalition that makes a profit: its moves against honest software, on the chain's specification."""
