"""How many tokens a page of a stage's memory holds (no torch here)."""

from __future__ import annotations

from typing import Final

PAGE: Final = 16
"""Tokens whose keys and values lie together in one page."""


def pages_for(tokens: int) -> int:
    """How many pages hold so many tokens."""
    return -(-tokens // PAGE)
