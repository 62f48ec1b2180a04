"""What a stage's numerics profile promises (no torch here)."""

from __future__ import annotations


def has_same_bits(numerics: str) -> bool:
    """Whether a stage of this profile gives a row the same bits whatever rows share its pass: the native kernels do."""
    return "/native" in numerics
